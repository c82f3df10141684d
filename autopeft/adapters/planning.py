"""Reads a user's file, a plan or adapter configs of `peft`, as a plan on a base model.

`peft` itself says which modules a config means, at which ranks and scales: it is attached to a copy of the
model without weights. The configs made of the plan must attach the same.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftConfig
from peft.tuners.lora.layer import ParamWrapper
from peft.utils.constants import SEQ_CLS_HEAD_NAMES
from torch import nn

from autopeft.adapters.compiling import check_plan, other_base_note
from autopeft.adapters.configs import (
    ConfigFile,
    changed_fields,
    holds_plan,
    is_adapter,
    read_configs,
    type_name,
    unknown_keys,
)
from autopeft.adapters.matching import in_head, require_match, unmatched
from autopeft.adapters.skeleton import Attached, attach_one_each
from autopeft.errors import SpecError, TargetError
from autopeft.model import DEMO_NAME, BaseModel
from autopeft.model.linear_layers import role_by_name
from autopeft.model.quantization import conv1d_to_linear
from autopeft.plugins import Method, rate_factor
from autopeft.store import read_plan
from autopeft.types import Adapter, Plan

# Fields that a plan need not repeat: the attached layers show them (the first two lines), or the method reads
# them itself.
_READ_ELSEWHERE = frozenset(
    "r lora_alpha alpha target_modules exclude_modules feedforward_modules target_parameters rank_pattern "
    "alpha_pattern use_rslora use_dora layers_to_transform layers_pattern fan_in_fan_out "
    "modules_to_save ensure_weight_tying init_lora_weights eva_config".split()
)


@dataclass(frozen=True, kw_only=True)
class UserPlan:
    """A user's plan on a base model; `notes` say which parts of the user's file have no effect."""

    plan: Plan
    notes: tuple[str, ...] = ()


def read_user_plan(path: Path, base: BaseModel, methods: Mapping[str, Method]) -> UserPlan:
    """Read a user's file as a plan on a base model; its learning rate is 0 if the file has none.

    The path is a plan.yaml, a run directory, an adapter_config.json, or a folder of one or of several with
    their order.json. A folder that holds a plan too is read as the plan.

    Raises:
        SpecError: The file cannot be read, or says what a plan cannot.
        TargetError: The file was made for another base model, or adapts one target module twice.
    """
    if is_adapter(path) and not holds_plan(path):
        return _plan_of_configs(path, base, methods)
    document = read_plan(path)
    try:
        check_plan(document.plan, base, methods)
    except TargetError as error:
        made_for = document.model.id or DEMO_NAME
        raise TargetError(
            f"{path} was made for {made_for} and does not fit as it is ({str(error).rstrip('.')}); "
            "use a plan of this base model."
        ) from error
    note = other_base_note(document, base)
    return UserPlan(plan=document.plan, notes=(note,) if note else ())


def check_user_file(path: Path) -> None:
    """Raise SpecError for a file that `read_user_plan` could read on no base model at all."""
    if is_adapter(path) and not holds_plan(path):
        read_configs(path)
    else:
        read_plan(path)


def _plan_of_configs(path: Path, base: BaseModel, methods: Mapping[str, Method]) -> UserPlan:
    """Read configs as one plan; SpecError unless `peft` attaches the same for configs and plan."""
    meanings: list[_Meaning] = []
    notes: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the notes say what `peft` warns of while it attaches
        files = read_configs(path)
        by_type = {method.readable_type: method for method in methods.values() if method.readable_type}
        for file in files:
            if type_name(file.config) not in by_type:
                raise SpecError(
                    f"{path} is of the type {type_name(file.config)}, which a plan cannot hold exactly; "
                    f"it can hold {', '.join(sorted(by_type))}."
                )
            _require_representable(file, base, path=path)
        modules = [name for name, _ in base.module.named_modules() if name]
        for file in files:
            method = by_type[type_name(file.config)]
            meanings.append(meaning := _read_meaning(file, base, method, path=path))
            notes += unknown_keys(file)
            notes += [
                f"{name} {value} is left out: every plan is trained without dropout in its adapters."
                for name, value in changed_fields(file.config).items()
                if name.endswith("dropout")
            ]
            notes += meaning.notes
            inside = [name for name in meaning.targeted if in_head(name, base)]
            if _is_all_linear(file):  # peft itself leaves the last map out then
                inside = [name for name in inside if name not in SEQ_CLS_HEAD_NAMES]
            if inside:
                notes.append(f"{', '.join(inside)} lies in the task head, which every plan trains whole.")
            lost = unmatched(file, meaning.targeted, modules=modules, model=base.module)
            notes += [note for note in lost if not note.startswith("modules_to_save")]  # peft adds names
        plan = _plan([a for meaning in meanings for a in meaning.adapters], base, methods, path=path)
        for meaning in meanings:
            if not meaning.layers:
                continue  # the config adapts only modules of the head
            planned = _attached_layers(meaning.method.configs(meaning.adapters), base, path=path)
            for name, layer in meaning.layers.items():
                if not layer.is_same(planned[name]):
                    raise SpecError(
                        f"{path} means {_described(layer)} at {name}, "
                        f"a plan {_described(planned[name])}; it cannot be measured as it is."
                    )
    return UserPlan(plan=plan, notes=tuple(dict.fromkeys(notes)))


@dataclass(frozen=True, kw_only=True)
class _Meaning:
    """What `peft` attaches for one config, by module, and the adapters of a plan that say the same.

    `targeted` names all modules that the config adapts, also in the task head, which `layers` leaves out;
    `notes` say what the plan leaves out.
    """

    method: Method
    adapters: tuple[Adapter, ...]
    layers: Mapping[str, _AttachedLayer]
    targeted: tuple[str, ...]
    notes: tuple[str, ...] = ()


def _read_meaning(file: ConfigFile, base: BaseModel, method: Method, *, path: Path) -> _Meaning:
    require_match(file, base, path=path)
    config: Any = file.config
    try:
        choices = method.read_choices(config)
    except SpecError as error:
        raise SpecError(f"{path} cannot become a plan: {error}") from error
    targeted = _attached_layers([config], base, path=path)
    layers = {name: layer for name, layer in targeted.items() if not in_head(name, base)}
    notes: tuple[str, ...] = ()
    if _is_all_linear(file):
        # A router is no target module, nor is its weight.
        routers = {n for n in layers if role_by_name(n.removesuffix(".weight")) == "router"}
        if routers:
            fewer = sum(layers.pop(name).params for name in routers)
            notes = (
                f"Routers, which all-linear adapts too, are left out: {len(routers):,} modules, "
                f"{fewer:,} parameters fewer.",
            )
    known_targets = {target.name for target in base.targets}
    for name, layer in layers.items():
        if name not in known_targets:
            raise SpecError(
                f"{path} adapts {name} ({layer.kind}), which is not a target of {base.name}; a plan adapts "
                "linear layers, norms and experts, but no router; leave it out of target_modules."
            )
    adapters = []
    for target in base.targets:
        if target.name in layers:
            layer = layers[target.name]
            options = {**choices, "feedforward": layer.on_inputs, **({"dora": True} if layer.dora else {})}
            adapters.append(
                Adapter(
                    method=method.name,
                    target=target.name,
                    rank=layer.rank if method.ranked else 0,
                    scale=method.scale(layer.rank, **options) if layer.scale is None else layer.scale,
                    options=tuple(sorted(method.options(target, **options).items())),
                )
            )
    return _Meaning(
        method=method, adapters=tuple(adapters), layers=layers, targeted=tuple(targeted), notes=notes
    )


def _is_all_linear(file: ConfigFile) -> bool:
    targets = file.config.target_modules
    return isinstance(targets, str) and targets.lower() == "all-linear"  # peft compares in lower case


def _plan(adapters: Sequence[Adapter], base: BaseModel, methods: Mapping[str, Method], *, path: Path) -> Plan:
    """Make one plan of the adapters of all configs, each method at the same place in its range of rates."""
    if not adapters:
        raise SpecError(f"{path} adapts nothing of {base.name} but its task head, which every plan trains.")
    lead = methods[adapters[0].method]
    factors = {name: rate_factor(methods[name], lead) for name in {adapter.method for adapter in adapters}}
    targets = {target.name: target for target in base.targets}
    costs = (methods[a.method].cost(targets[a.target], a.rank, dict(a.options)) for a in adapters)
    plan = Plan(
        adapters=tuple(dataclasses.replace(a, rate_factor=factors[a.method]) for a in adapters),
        learning_rate=0.0,
        trainable_params=sum(costs),
    )
    check_plan(plan, base, methods)
    return plan


def _require_representable(file: ConfigFile, base: BaseModel, *, path: Path) -> None:
    """Raise SpecError for settings that a plan would lose, and for modules outside the head trained whole."""
    modules = [name for name, _ in base.module.named_modules()]
    for ending in getattr(file.config, "modules_to_save", None) or ():
        named = [name for name in modules if name == ending or name.endswith(f".{ending}")]
        outside = [name for name in named if not in_head(name, base)]
        if outside or (not named and ending not in SEQ_CLS_HEAD_NAMES):
            where = outside[0] if outside else f"{ending!r}, which {base.name} lacks"
            raise SpecError(
                f"{path} trains {where} whole (modules_to_save), and a plan trains only the task head so; "
                "take it out, or adapt it by a method."
            )
    for name, value in changed_fields(file.config).items():
        if name not in _READ_ELSEWHERE and not name.endswith("dropout"):
            default = getattr(type(file.config)(), name)
            raise SpecError(
                f"{path} has {name} {value!r}, which a plan cannot say; every plan has {default!r}."
            )


@dataclass(frozen=True, kw_only=True)
class _AttachedLayer:
    """What `peft` made at one module: `params` trainable numbers, `scale` None for a type without one.

    `on_inputs` says that the factors of IA3 multiply the inputs rather than the outputs.
    """

    kind: str
    rank: int
    scale: float | None = field(compare=False)
    dora: bool
    on_inputs: bool
    params: int

    def is_same(self, other: _AttachedLayer) -> bool:
        """Whether another layer trains the same numbers in the same way; scales up to rounding."""
        return other == self and math.isclose(self.scale or 0.0, other.scale or 0.0, rel_tol=1e-9)


def _described(layer: _AttachedLayer) -> str:
    scale = "" if layer.scale is None else f" with scale {layer.scale:g}"
    return f"{layer.params:,} parameters{scale}{' on the inputs' if layer.on_inputs else ''}"


def _attached_layers(
    configs: Sequence[PeftConfig], base: BaseModel, *, path: Path
) -> dict[str, _AttachedLayer]:
    return {target: _attached_layer(layer) for target, layer in _attach(configs, base, path=path).targets()}


def _attach(configs: Sequence[PeftConfig], base: BaseModel, *, path: Path) -> Attached:
    """Attach configs, without their `modules_to_save`, to a copy of the base model without weights."""
    with torch.device("meta"):
        module = type(base.module)(copy.deepcopy(cast(Any, base.module.config)))
    if any(target.quantized for target in base.targets):
        conv1d_to_linear(module)
    copies = [copy.deepcopy(config) for config in configs]
    for config in copies:
        config.task_type = None
        if hasattr(config, "modules_to_save"):
            config.modules_to_save = None
    return attach_one_each(module, copies, base_name=base.name, path=path)


def _attached_layer(layer: Any) -> _AttachedLayer:
    ranks = list(layer.r.values()) if isinstance(getattr(layer, "r", None), Mapping) else []
    scales = getattr(layer, "scaling", None)
    dora = getattr(layer, "use_dora", {})
    base_layer = layer.get_base_layer()
    inner = {id(p) for p in layer.base_layer.parameters()} if isinstance(layer, ParamWrapper) else set()
    return _AttachedLayer(
        kind=type(base_layer).__name__ if isinstance(base_layer, nn.Module) else "parameter",
        rank=int(ranks[0]) if ranks else 0,
        scale=float(next(iter(scales.values()))) if isinstance(scales, Mapping) and scales else None,
        dora=isinstance(dora, Mapping) and any(dora.values()),
        on_inputs=bool(getattr(layer, "is_feedforward", False)),
        params=sum(p.numel() for p in layer.parameters() if p.requires_grad and id(p) not in inner),
    )
