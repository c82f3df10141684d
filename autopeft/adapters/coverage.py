"""What an adapter config adapts of each component of a model, and whether its tensors are those of `peft`."""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from peft import set_peft_model_state_dict
from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING

from autopeft.adapters.configs import ConfigFile
from autopeft.adapters.skeleton import Attached
from autopeft.model.linear_layers import linear_shape
from autopeft.types import Component, counted, listed

Severity = Literal["warning", "broken"]
TOWERS: tuple[Component, ...] = ("vision", "audio", "projector")
_PREFIX = "base_model.model."  # what `peft` puts before the base model's own names
_REWRITTEN = r".*\.gate_up_proj"  # a key of rank_pattern that `peft` adds where it rewrites targets


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that is wrong with an adapter, or may be; `source` is the file or thread that shows it."""

    severity: Severity
    text: str
    source: str = ""


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """The adapted or trained modules of a component, of how many, and their parameters."""

    component: str
    adapted: tuple[str, ...]
    n_modules: int
    n_params: int


def coverage_of(attached: Attached, places: Mapping[str, Component]) -> tuple[Coverage, ...]:
    """List the components of a model that have linear layers or experts, or that an adapter trains.

    `places` has the component of each module before adapters were attached. Parameters that all modules
    share, as of VeRA, are in the component `shared`.
    """
    base = attached.model.get_base_model()
    trained: dict[str, set[str]] = defaultdict(set)
    n_params: Counter[str] = Counter()
    for name, parameter in attached.model.named_parameters():
        if parameter.requires_grad:
            owner = name.removeprefix(_PREFIX)
            while owner and owner not in places:
                owner = owner.rpartition(".")[0]
            component = places.get(owner, "shared")
            n_params[component] += parameter.numel()
            trained[component].add(owner)
    modules: dict[str, list[str]] = defaultdict(list)
    for name, component in places.items():
        layer = base.get_submodule(name)
        is_linear = linear_shape(getattr(layer, "base_layer", layer)) is not None
        if is_linear or component == "routed_experts" or name in trained[component]:
            modules[component].append(name)
    if n_params["shared"]:
        modules["shared"] = [""]
    return tuple(
        Coverage(
            component=component,
            adapted=tuple(sorted(trained[component])),
            n_modules=len(names),
            n_params=n_params[component],
        )
        for component, names in modules.items()
    )


def accidents(file: ConfigFile, coverage: Sequence[Coverage], *, has_weights: bool) -> Iterator[Finding]:
    """Yield components that a config adapts though few would mean it.

    Without weights, which show what was trained, towers are among them.
    """
    adapted = {each.component: each.adapted for each in coverage if each.adapted}
    for component in ("router",) if has_weights else ("router", *TOWERS):
        if names := adapted.get(component):
            text = f"It adapts {counted(len(names), f'{component} module')}, such as {names[0]}."
            yield Finding(severity="warning", text=text)
    patterns, targets = file.content.get("rank_pattern"), file.content.get("target_parameters")
    is_rewritten = "routed_experts" in adapted and (not targets or _REWRITTEN in (patterns or ()))
    others = [each for each in coverage if each.component in ("mlp", "shared_expert") and not each.adapted]
    if is_rewritten and others:
        text = (
            "peft rewrote names of MLPs to the routed experts; "
            f"{counted(sum(each.n_modules for each in others), 'module')} of "
            f"{listed([each.component for each in others])} got no adapter (peft#3711)."
        )
        yield Finding(severity="warning", text=text)


def tensor_findings(
    attached: Attached, name: str, tensors: Mapping[str, torch.Tensor], places: Mapping[str, Component]
) -> Iterator[Finding]:
    """Yield what is wrong with the tensors of the adapter `name`, which are loaded as `peft` does."""
    n_empty = sum(not tensor.numel() for tensor in tensors.values())
    if n_empty or not tensors:
        text = f"{n_empty} of {counted(len(tensors), 'tensor')} hold no numbers, as after ZeRO-3."
        yield Finding(severity="broken", text=text if tensors else "The file of weights has no tensors.")
        return
    scales = {module: getattr(layer, "scaling", {}).get(name) for module, layer in attached.targets()}
    changes = defaultdict(list)
    for key, tensor in tensors.items():
        if ".lora_B" in key or ".lora_embedding_B" in key:
            module = key.removeprefix(_PREFIX).partition(".lora_")[0]
            changes[places.get(module, "other")].append(scales.get(module) != 0 and bool(tensor.any()))
    idle = sorted(component for component, moved in changes.items() if not any(moved))
    if idle:
        has_more = any(".lora_" not in key or "magnitude" in key for key in tensors)  # such as DoRA's
        text = f"lora_B or lora_alpha is 0 in all modules of {listed(idle)}, so they change nothing."
        is_broken = len(idle) == len(changes) and not has_more
        yield Finding(severity="broken" if is_broken else "warning", text=text)
    yield from _unloadable(attached, name, tensors)


def _unloadable(attached: Attached, name: str, tensors: Mapping[str, torch.Tensor]) -> Iterator[Finding]:
    """Load tensors into a model without weights as `peft` does; yield what is missing, ignored or misshapen.

    Names of older versions, which `peft` and transformers rename, are no finding.
    """
    config, loaded = attached.model.peft_config[name], dict(tensors)
    shapes = {key: parameter.shape for key, parameter in attached.model.named_parameters()}
    for key, tensor in tensors.items():  # the head has as many labels as its adapter says
        owner, _, leaf = key.rpartition(".")
        shape = shapes.get(f"{owner}.modules_to_save.{name}.{leaf}", tensor.shape)
        if config.task_type in ("SEQ_CLS", "TOKEN_CLS") and shape != tensor.shape:
            loaded[key] = torch.empty(shape, device="meta")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # nothing is copied to the meta device
            result = set_peft_model_state_dict(attached.model, loaded, adapter_name=name)
    except Exception as error:  # whatever `peft` and transformers raise for tensors of another model
        reason = " ".join(str(error).split()).removeprefix("Error(s) in loading state_dict for ")
        yield Finding(severity="broken", text=f"peft cannot load the tensors: {reason[:160]}")
        return
    kind = PEFT_TYPE_TO_PREFIX_MAPPING.get(config.peft_type, "")
    missing = sorted(key for key in result.missing_keys if kind in key and name in key.split("."))
    ignored = sorted(result.unexpected_keys)
    if ignored:
        text = f"peft ignores {counted(len(ignored), 'tensor')}, such as {ignored[0]}."
        yield Finding(severity="broken" if missing else "warning", text=text)
    if missing:
        first = "".join(missing[0].rsplit(f".{name}", 1))  # as in a file
        text = f"{counted(len(missing), 'tensor')} that peft needs are missing, such as {first}."
        yield Finding(severity="broken", text=text)
