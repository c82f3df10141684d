"""What an adapter config adapts of each component of a model, and whether its tensors are those of `peft`."""

from __future__ import annotations

import os
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from peft import PeftType, set_peft_model_state_dict
from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING

from autopeft.adapters.configs import ConfigFile
from autopeft.adapters.matching import TargetMatch
from autopeft.adapters.skeleton import Attached
from autopeft.errors import first_line_of
from autopeft.model.linear_layers import linear_shape
from autopeft.types import Component, counted, listed

_PREFIX = "base_model.model."  # what `peft` puts before the base model's own names
TOWERS: tuple[Component, ...] = ("vision", "audio", "projector")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that is wrong with an adapter (`broken`), or may be."""

    severity: Literal["warning", "broken"]
    text: str


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """How many modules of a component are adapted or trained, and with how many parameters."""

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
            parts = name.removeprefix(_PREFIX).split(".")
            prefixes = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
            owner = next((prefix for prefix in prefixes if prefix in places), None)
            component = places[owner] if owner else "shared"
            n_params[component] += parameter.numel()
            trained[component] |= {owner} if owner else set()
    modules: dict[str, set[str]] = defaultdict(set)
    for name, component in places.items():
        layer = base.get_submodule(name)
        is_linear = linear_shape(getattr(layer, "base_layer", layer)) is not None
        if is_linear or component == "routed_experts" or name in trained[component]:
            modules[component].add(name)
    return tuple(
        Coverage(
            component=component,
            adapted=tuple(sorted(trained[component])),
            n_modules=len(modules[component]),
            n_params=n_params[component],
        )
        for component in (*modules, *(["shared"] if n_params["shared"] else []))
    )


def accidents(
    file: ConfigFile, matches: Sequence[TargetMatch], coverage: Sequence[Coverage], *, has_weights: bool
) -> Iterator[Finding]:
    """Yield components that a config adapts though few would mean it.

    `matches` are those of its targets in the model before `peft` rewrote them. Without weights, towers are
    among the findings: text alone does not train these.
    """
    adapted = {each.component: set(each.adapted) for each in coverage if each.adapted}
    if "router" in adapted:
        routers = sorted(adapted["router"])
        text = (
            f"It adapts {counted(len(routers), 'router')}, such as {routers[0]}; routers choose the experts."
        )
        yield Finding(severity="warning", text=text)
    for tower in TOWERS:
        if tower in adapted and not has_weights:
            text = (
                f"It adapts {counted(len(adapted[tower]), 'module')} of {tower}, which text does not train."
            )
            yield Finding(severity="warning", text=text)
    if "routed_experts" in adapted and not file.content.get("target_parameters"):
        everywhere = set().union(*adapted.values())
        lost = {
            match.entry
            for match in matches
            if match.field == "target_modules" and match.modules and everywhere.isdisjoint(match.modules)
        }
        if lost:
            text = (
                f"{listed(sorted(lost))} of target_modules match dense or shared MLPs, but peft adapts the "
                "routed experts instead (peft#3711)."
            )
            yield Finding(severity="warning", text=text)


def tensor_findings(
    attached: Attached, name: str, tensors: Mapping[str, torch.Tensor], places: Mapping[str, Component]
) -> Iterator[Finding]:
    """Yield what is wrong with the tensors of the adapter `name`, which are loaded as `peft` does."""
    if not tensors:
        yield Finding(severity="broken", text="adapter_model.safetensors holds no tensors.")
        return
    empty = [key for key, tensor in tensors.items() if not tensor.numel()]
    if empty:
        text = f"{counted(len(empty), 'tensor')} of {len(tensors)} without numbers, such as {empty[0]}."
        yield Finding(severity="broken", text=text)
    yield from _untrained(tensors, places)
    yield from _unloadable(attached, name, tensors)


def _untrained(tensors: Mapping[str, torch.Tensor], places: Mapping[str, Component]) -> Iterator[Finding]:
    """Yield components whose every LoRA is still zero, which is how B begins."""
    halves = {
        key: tensor for key, tensor in tensors.items() if ".lora_B" in key or ".lora_embedding_B" in key
    }
    if halves and not any(tensor.any() for tensor in halves.values()):
        alone = all(".lora_" in key and "magnitude" not in key for key in tensors)
        text = f"every lora_B is zero ({len(halves)} tensors), so that LoRA changes nothing"
        yield Finding(severity="broken" if alone else "warning", text=text)
        return
    for component in dict.fromkeys(places.values()):
        own = [t for key, t in halves.items() if places.get(_module_of(key)) == component]
        if own and not any(tensor.any() for tensor in own):
            text = f"every lora_B of {component} is zero ({len(own)} tensors): it was not trained"
            yield Finding(severity="warning", text=text)


def _module_of(key: str) -> str:
    return key.removeprefix(_PREFIX).partition(".lora_")[0]


def _unloadable(attached: Attached, name: str, tensors: Mapping[str, torch.Tensor]) -> Iterator[Finding]:
    """Load tensors into a model without weights as `peft` does; yield what is missing, ignored or misshapen.

    Names of older versions, which `peft` and transformers rename, are no finding.
    """
    base, config = attached.model.get_base_model(), attached.model.peft_config[name]
    shapes = {key: parameter.shape for key, parameter in base.named_parameters()}
    loaded = dict(tensors)
    for key, tensor in tensors.items():  # the head has as many labels as its adapter says
        if ".lora_" not in key and config.task_type in ("SEQ_CLS", "TOKEN_CLS"):
            owner, _, leaf = key.removeprefix(_PREFIX).rpartition(".")
            shape = shapes.get(f"{owner}.modules_to_save.{name}.{leaf}", tensor.shape)
            loaded[key] = torch.empty(shape, device="meta") if tensor.numel() else tensor
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # nothing is copied to the meta device
            result = set_peft_model_state_dict(attached.model, loaded, adapter_name=name)
    except Exception as error:  # whatever transformers' renaming and `peft` raise for foreign tensors
        lines = str(error).strip().splitlines()
        reason = (lines[1] if len(lines) > 1 else first_line_of(error)).strip().rstrip(".")
        yield Finding(severity="broken", text=f"peft cannot load the tensors: {reason}")
        return
    prefix = PEFT_TYPE_TO_PREFIX_MAPPING.get(PeftType(config.peft_type), "")
    missing = [key for key in result.missing_keys if prefix in key and name in key]
    ignored = list(result.unexpected_keys)
    if missing and ignored:
        common = os.path.commonprefix([missing[0][::-1], ignored[0][::-1]])[::-1].partition(".")[2]
        needed, found = (key.removesuffix(common) for key in (missing[0], ignored[0]))
        hint = f": names begin with {found!r}, not {needed!r}" if common else f", such as {ignored[0]}"
        text = f"peft ignores {counted(len(ignored), 'tensor')} and misses {len(missing)}{hint}"
    elif missing:
        text = f"{counted(len(missing), 'tensor')} are missing, such as {missing[0]}"
    else:
        text = f"peft ignores {counted(len(ignored), 'tensor')}, such as {ignored[0]}" if ignored else ""
    if text:
        yield Finding(severity="broken" if missing else "warning", text=text)
