"""`check`: whether an adapter does anything, for `peft` and for the servers that may load it."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

import psutil
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError

from autopeft import adapters, exports, model
from autopeft.adapters import ConfigFile, Coverage, Finding
from autopeft.errors import SpecError, TargetError, UnknownNameError, reason_of
from autopeft.exports import SERVERS
from autopeft.finished.same_outputs import (
    Outputs,
    ServedAnswers,
    ask_server,
    compare_outputs,
    difference_here,
    find_reference,
)
from autopeft.finished.training_notes import finished_weights
from autopeft.model import BaseModel
from autopeft.model.checkpoint_source import own_class
from autopeft.model.components import components, topology
from autopeft.plugins import discover
from autopeft.store import RunDir, is_run
from autopeft.types import ModelSpec

_CONFIG, _ORDER = "adapter_config.json", "order.json"
_HUB_SECONDS = 4.0  # for the hub's answer; heuristic
_VERDICTS = ("good", "warning", "broken")
Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Check:
    """What an adapter adapts, and what is wrong with it.

    `coverage` is empty for a whole model, and if `peft` cannot attach the config. `servers` has the faults
    of each server; without names, it is empty for what servers do not load, such as classifiers.
    """

    path: str
    base_model: str
    method: str
    topology: str = ""
    coverage: tuple[Coverage, ...] = ()
    max_rank: int = 0
    findings: tuple[Finding, ...] = ()
    servers: Mapping[str, tuple[Finding, ...]] = field(default_factory=dict)
    outputs: Outputs | None = None
    answers: ServedAnswers | None = None

    @property
    def verdict(self) -> str:
        """Return `good`, `warning` or `broken`: as `peft` loads it, and by what was compared."""
        is_same = all(each is None or each.is_same for each in (self.outputs, self.answers))
        return _worst(self.findings) if is_same else "broken"

    def verdict_on(self, server: str) -> str:
        """Return the verdict for a server; what is wrong for `peft` is wrong there."""
        return _worst((*self.findings, *self.servers[server]))


def _worst(findings: Iterable[Finding]) -> str:
    return max((each.severity for each in findings), key=_VERDICTS.index, default="good")


def check(
    adapter: str,
    *,
    model_id: str | None = None,
    serve_on: Sequence[str] = (),
    server: str | None = None,
    run: Path | None = None,
) -> Check:
    """Check an adapter: its folder or adapter_config.json, a hub id, a run, or an export of `run`.

    The base model is built without weights, except to compare outputs: with those of the finished plan of
    `run` (None takes the run around the adapter, if any), and with those of the endpoint `server`.
    `serve_on` names servers; without names, all are looked at.

    Raises:
        SpecError: There is nothing to check, or a config is damaged.
        ModelError: The base model is unknown or cannot be read.
    """
    discover("autopeft.methods")  # a method may register its own type with `peft`
    if unknown := sorted(set(serve_on) - set(SERVERS)):
        raise UnknownNameError("server", unknown[0], SERVERS)
    path = _locate(adapter)
    with model.quiet_libraries():
        if any((path / name).is_file() for name in (_CONFIG, _ORDER)):
            files = adapters.read_configs(path)
            configs = [file.config for file in files]
            spec = ModelSpec(id=model_id) if model_id else adapters.base_model_of(configs, path=path)
            found = _inspect(path, files, spec, serve_on=serve_on, is_config=Path(adapter).is_file())
        elif run is not None and (path / "config.json").is_file():
            files, spec = [], ModelSpec(id=str(path))
            found = Check(path=str(path), base_model=str(path), method="a whole model")
        else:
            wanted = "pass an adapter, a run, or a merged model with --run"
            raise SpecError(f"{path} has no {_CONFIG}; {wanted}.")
        reference = find_reference(path, run)
        if reference is not None and found.verdict != "broken":
            found = replace(found, outputs=compare_outputs(path, files, reference, model_id=model_id))
        return found if server is None else replace(found, answers=_answers(server, path, files, spec))


def _locate(adapter: str) -> Path:
    """Return the folder of an adapter: of a config, a run's finished weights, or the hub's cache."""
    path = Path(adapter)
    if path.is_dir():
        return finished_weights(RunDir.open(path)) if is_run(path) else path
    if path.is_file():
        if path.name != _CONFIG:
            raise SpecError(f"{path} is not an adapter config; peft calls that file {_CONFIG}.")
        return path.parent
    try:
        files = [_CONFIG, "adapter_model.*"]
        return Path(snapshot_download(adapter, allow_patterns=files, etag_timeout=_HUB_SECONDS))
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise SpecError(
            f"{adapter!r} is not a folder, and cannot be loaded from the hub ({reason_of(error)})."
        ) from error


def _inspect(
    path: Path, files: Sequence[ConfigFile], spec: ModelSpec, *, serve_on: Sequence[str], is_config: bool
) -> Check:
    """Check configs and tensors on the class of transformers that they are for.

    Adapters of a model of images and texts may be for its text model or for the whole, and the config does
    not say which: if they do not fit the first, the second is tried.
    """
    weights, findings = _read_weights(files, is_config=is_config)
    auto_class = adapters.auto_class_of([file.config for file in files])
    whole = own_class(model.config_of(spec), auto_class or "AutoModelForCausalLM")
    skeletons = (
        model.load_skeleton(spec, auto_class=name)
        for name in dict.fromkeys((auto_class, whole or auto_class))
    )
    attempts = (_attach(path, files, weights, base, whole=whole, serve_on=serve_on) for base in skeletons)
    first = next(attempts)
    found = next((each for each in chain([first], attempts) if each.verdict != "broken"), first)
    return replace(found, findings=(*findings, *found.findings))


def _read_weights(
    files: Sequence[ConfigFile], *, is_config: bool
) -> tuple[list[Tensors | None], list[Finding]]:
    """Read the tensors of each config, None without; weights are missed unless the user named a config."""
    weights: list[Tensors | None] = []
    findings = []
    for file in files:
        tensors, problem = None, ""
        try:
            tensors = exports.read_weights(file.folder)
            if tensors is None and not is_config:
                problem = f"{file.folder} has no weights to check."
        except SpecError as error:
            problem = str(error)
        weights.append(tensors)
        if problem:  # peft loads what is not read here, a pickle
            suffixes = {path.suffix for path in file.folder.glob("adapter_model.*")}
            findings.append(Finding(severity="warning" if suffixes == {".bin"} else "broken", text=problem))
    return weights, findings


def _attach(
    path: Path,
    files: Sequence[ConfigFile],
    weights: Sequence[Tensors | None],
    base: BaseModel,
    *,
    whole: str | None,
    serve_on: Sequence[str],
) -> Check:
    """Attach configs by `peft` to a base model without weights, load the tensors, and look at the result."""
    configs = [file.config for file in files]
    names, places = model.adapter_names(configs), components(base.module)
    modules = [name for name, _ in base.module.named_modules() if name]
    found = Check(
        path=str(path),
        base_model=base.name,
        method=" and ".join(dict.fromkeys(map(adapters.type_name, configs))),
        topology=topology(base.module),
    )
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            attached = adapters.attach_fitting(base.module, configs, base_name=base.name, path=path)
    except (TargetError, SpecError) as error:
        is_unknown = any(map(adapters.reads_weights, configs))  # which fails without weights
        finding = Finding(severity="warning" if is_unknown else "broken", text=str(error))
        return replace(found, findings=(finding,))
    coverage = adapters.coverage_of(attached, places)
    findings: list[Finding] = []
    if any("tie_word_embeddings" in str(each.message) for each in warned):
        text = "It changes the embedding or the head, which share one weight; merging ties them (peft#2777)."
        findings.append(Finding(severity="warning", text=text))
    for file, name, tensors in zip(files, names, weights, strict=True):
        targeted = [target for target, layer in attached.targets() if name in adapters.held_names(layer)]
        lost = adapters.unmatched(file, targeted, modules=modules, model=base.module)
        findings += [Finding(severity="warning", text=text) for text in (*adapters.unknown_keys(file), *lost)]
        findings += adapters.accidents(file, coverage, has_weights=tensors is not None)
        if tensors is not None:
            findings += adapters.tensor_findings(attached, name, tensors, places)
    is_served = model.task_type_of(base.module) == "CAUSAL_LM"
    keys = weights[0] or {}
    servers = {
        server: exports.server_faults(
            server, attached, configs=configs, places=places, tensor_names=keys, whole=whole
        )
        for server in serve_on or (SERVERS if is_served else ())
    }
    return replace(
        found,
        coverage=coverage,
        max_rank=max((rank for ranks in attached.ranks().values() for rank in ranks.values()), default=0),
        findings=tuple(findings),
        servers={server: tuple(faults) for server, faults in servers.items()},
    )


def _answers(url: str, path: Path, files: Sequence[ConfigFile], spec: ModelSpec) -> ServedAnswers:
    """Compare a server's base model and adapter, and its adapter with this machine's if its base is here."""
    answers, served = ask_server(url, path)
    source = Path(model.resolve(spec)[0])
    n_bytes = 2 * sum(file.stat().st_size for file in source.glob("*.safetensors"))  # of 16 bits in float32
    if not files or not 0 < n_bytes < psutil.virtual_memory().available:
        return answers
    auto_class = adapters.auto_class_of([file.config for file in files]) or "AutoModelForCausalLM"
    base = model.load(spec, auto_class=auto_class, label_names=(), needs_padding=False, device="cpu")
    adapted = exports.load_in_peft(base.module, files).eval()
    return replace(answers, difference=difference_here(adapted, base.tokenizer, served))
