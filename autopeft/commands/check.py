"""`check`: whether an adapter does anything, for `peft` and for the servers that may load it."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from peft import PeftConfig
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import ParamWrapper

from autopeft import adapters, exports, model
from autopeft.adapters import Attached, ConfigFile, Coverage, Finding
from autopeft.commands.same_outputs import Outputs, compare_outputs, find_reference
from autopeft.commands.served_answers import ServedAnswers, ask_server, difference_here
from autopeft.errors import HubError, SpecError, TargetError, UnknownNameError, first_line_of
from autopeft.exports import SERVERS, ServedAdapter, ServerFault
from autopeft.model import BaseModel
from autopeft.model.checkpoint_source import own_class
from autopeft.model.components import components, topology
from autopeft.plugins import discover
from autopeft.run.best import finished_weights
from autopeft.store import RunDir, is_run
from autopeft.types import Component, ModelSpec

_CONFIG = "adapter_config.json"
_HUB_SECONDS = 4.0  # for the hub's answer; heuristic
_VERDICTS = ("good", "warning", "broken")


@dataclass(frozen=True, kw_only=True)
class Check:
    """What an adapter adapts, and what is wrong with it.

    `coverage` and `topology` are empty for a whole model, and if `peft` cannot attach the config.
    `servers` has the faults of each server that was asked about, none for what servers do not serve.
    """

    path: str
    base_model: str
    method: str
    topology: str = ""
    coverage: tuple[Coverage, ...] = ()
    trainable_params: int = 0
    max_rank: int = 0
    n_tensors: int = 0
    findings: tuple[Finding, ...] = ()
    servers: Mapping[str, tuple[ServerFault, ...]]
    outputs: Outputs | None = None
    answers: ServedAnswers | None = None

    @property
    def verdict(self) -> str:
        """Return `good`, `warning` or `broken`, as plain `peft` loads the adapter."""
        compared = (
            self.outputs is None or self.outputs.are_same,
            self.answers is None or self.answers.is_applied,
        )
        return "broken" if not all(compared) else _worst(each.severity for each in self.findings)

    def verdict_on(self, server: str) -> str:
        """Return the verdict for a server; what is broken for `peft` is broken there."""
        faults = self.servers[server]
        return _worst([*("broken" if each.breaks else "warning" for each in faults), self.verdict])


def _worst(verdicts: Iterable[str]) -> str:
    return max(("good", *verdicts), key=_VERDICTS.index)


def check(
    adapter: str,
    *,
    model_id: str | None = None,
    serve_on: Sequence[str] = (),
    server: str | None = None,
    run: Path | None = None,
    data_source: str | None = None,
    tolerance: float | None = None,
) -> Check:
    """Check an adapter: a folder, its adapter_config.json, a hub id, a run, or a merged model of a run.

    No weights of the base model are read, except to compare outputs: with the finished plan of `run` (None
    takes the run with the adapter in it, if any) on its rows or those of `data_source`, and with the
    endpoint `server`. `serve_on` names servers; without names all are looked at. `tolerance` is the largest
    difference of outputs from the run's.

    Raises:
        SpecError: Nothing there can be checked, or a file is damaged.
        ModelError: The base model is unknown or cannot be read.
        HubError: The hub does not answer.
    """
    discover("autopeft.methods")  # a method may register its own type with `peft`
    for name in serve_on:
        if name not in SERVERS:
            raise UnknownNameError("server", name, SERVERS)
    path = _locate(adapter)
    is_adapter = any((path / name).is_file() for name in (_CONFIG, "order.json"))
    if not is_adapter and not ((path / "config.json").is_file() and run):
        raise SpecError(
            f"{path} has no {_CONFIG} or order.json; pass an adapter, a run, or a merged model with --run."
        )
    with model.quiet_libraries():
        if is_adapter:
            files = adapters.read_configs(path)
            spec = (
                ModelSpec(id=model_id)
                if model_id
                else adapters.base_model_of([file.config for file in files], path=path)
            )
            found = _inspect(path, files, spec, serve_on=serve_on)
        else:
            files, spec = [], ModelSpec(id=str(path))
            found = Check(path=str(path), base_model=str(path), method="a whole model", servers={})
        reference = find_reference(path, run)
        if reference is not None and found.verdict != "broken":
            outputs = compare_outputs(
                path, files, reference, model_id=model_id, data_source=data_source, tolerance=tolerance
            )
            found = replace(found, outputs=outputs)
        if server is not None:
            found = replace(found, answers=_answers(server, path, files, spec))
    return found


def _locate(adapter: str) -> Path:
    """Return the folder of an adapter: of a file, a run's finished weights, or the hub's cache."""
    path = Path(adapter)
    if path.is_file():
        if path.name != _CONFIG:
            raise SpecError(f"{path} is not an adapter config; peft calls that file {_CONFIG}.")
        return path.parent
    if path.is_dir():
        return finished_weights(RunDir.open(path)) if is_run(path) else path
    try:
        files = [_CONFIG, "adapter_model.*", "head.safetensors"]
        return Path(snapshot_download(adapter, allow_patterns=files, etag_timeout=_HUB_SECONDS))
    except ValueError as error:  # not a valid name of a hub repository
        raise SpecError(
            f"There is no {adapter!r}; pass a folder, a file, or the id of an adapter."
        ) from error
    except (OSError, HfHubHTTPError) as error:
        raise HubError(
            f"There is no {adapter!r} on this machine, and the hub does not give it ({first_line_of(error)}); "
            "check spelling and network."
        ) from error


def _inspect(path: Path, files: Sequence[ConfigFile], spec: ModelSpec, *, serve_on: Sequence[str]) -> Check:
    """Check configs and tensors on the class of transformers that they are for.

    Adapters of a model of images and texts may be for its text model or for the whole, and the config does
    not say which: if they do not fit the first, the second is tried.
    """
    weights: list[Mapping[str, torch.Tensor]] = []
    findings = []
    for file in files:
        try:
            tensors = exports.read_weights(file.folder)
        except SpecError as error:
            findings.append(Finding(severity="broken", text=str(error)))
            continue
        if tensors is None:
            text = f"{file.folder} has no adapter_model.safetensors; only the config was checked."
            findings.append(Finding(severity="warning", text=text))
        else:
            weights.append(tensors)
    auto_class = adapters.auto_class_of([file.config for file in files])
    whole = own_class(model.config_of(spec), auto_class or "AutoModelForCausalLM")
    attempts = []
    for class_name in dict.fromkeys((auto_class, whole or auto_class)):
        base = model.load_skeleton(spec, auto_class=class_name)
        attempts.append(_attach(path, files, weights, base, findings, whole=whole or "", serve_on=serve_on))
        if attempts[-1].verdict != "broken":
            return attempts[-1]
    return attempts[0]


def _attach(
    path: Path,
    files: Sequence[ConfigFile],
    weights: Sequence[Mapping[str, torch.Tensor]],
    base: BaseModel,
    findings: Sequence[Finding],
    *,
    whole: str,
    serve_on: Sequence[str],
) -> Check:
    """Attach configs by `peft` to a base model without weights, load the tensors, and look at the result."""
    configs = [file.config for file in files]
    found = Check(
        path=str(path),
        base_model=base.name,
        method=" and ".join(dict.fromkeys(map(adapters.type_name, configs))),
        topology=topology(base.module),
        n_tensors=sum(map(len, weights)),
        findings=tuple(findings),
        servers={},
    )
    places, modules = components(base.module), [name for name, _ in base.module.named_modules() if name]
    matches = [adapters.target_matches(file.content, base.module) for file in files]
    is_language_model = model.task_type_of(base.module) == "CAUSAL_LM"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what `peft` warns of is among the findings
            attached = adapters.attach_fitting(files, base, path=path)
    except (TargetError, SpecError) as error:
        return replace(found, findings=(*findings, Finding(severity="broken", text=str(error))))
    coverage = adapters.coverage_of(attached, places)
    more: list[Finding] = []
    for file, matched, name in zip(files, matches, model.adapter_names(configs), strict=True):
        targeted = [target for target, layer in attached.targets() if name in adapters.held_names(layer)]
        lost = adapters.unmatched(file, targeted, modules=modules, model=base.module)
        more += [Finding(severity="warning", text=text) for text in (*adapters.unknown_keys(file), *lost)]
        more += adapters.accidents(file, matched, coverage, has_weights=bool(weights))
    for name, tensors in zip(model.adapter_names(configs), weights, strict=False):
        more += adapters.tensor_findings(attached, name, tensors, places)
    served = _served(configs[0], attached, places, base)
    if weights and not any("language_model." in key for key in weights[0]):
        served = replace(served, whole=whole)
    names = serve_on or (SERVERS if is_language_model else ())
    return replace(
        found,
        coverage=coverage,
        trainable_params=sum(each.n_params for each in coverage),
        max_rank=max((rank for rank, _ in served.scaled.values()), default=0),
        findings=(*findings, *more),
        servers={name: tuple(exports.server_faults(name, served)) for name in names},
    )


def _served(
    config: PeftConfig, attached: Attached, places: Mapping[str, Component], base: BaseModel
) -> ServedAdapter:
    """Collect what servers differ in."""
    scaled: dict[str, tuple[int, float]] = {}
    stacked = []
    for target, layer in attached.targets():
        if isinstance(layer, ParamWrapper):
            stacked.append(target)
        elif isinstance(layer, LoraLayer):
            ((name, rank),) = layer.r.items()
            scaled[target] = (rank, layer.scaling[name])
    text_config = base.module.config.get_text_config()  # type: ignore[operator, union-attr]
    return ServedAdapter(
        config=config,
        scaled=scaled,
        stacked=stacked,
        towers=[name for name in scaled if places.get(name) in adapters.TOWERS],
        n_layers=getattr(text_config, "num_hidden_layers", 0),
        n_configs=len(attached.model.peft_config),
    )


def _answers(url: str, path: Path, files: Sequence[ConfigFile], spec: ModelSpec) -> ServedAnswers:
    """Compare a server's base model and adapter, and its adapter with this machine's if its base is here."""
    answers, served = ask_server(url, path)
    source = Path(model.resolve(spec)[0])
    n_bytes = 4 * sum(file.stat().st_size for file in source.glob("*.safetensors"))  # float32, with room
    if not 0 < n_bytes < psutil.virtual_memory().available:
        return answers
    auto_class = adapters.auto_class_of([file.config for file in files]) or "AutoModelForCausalLM"
    base = model.load(spec, auto_class=auto_class, label_names=(), needs_padding=False, device="cpu")
    adapted = exports.load_in_peft(base.module, files).eval()
    return replace(answers, difference=difference_here(adapted, base.tokenizer, served))
