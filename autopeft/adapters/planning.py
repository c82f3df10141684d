"""Reads a user's file, a plan or adapter configs of `peft`, as a plan on a base model.

`peft` itself decides which modules a config adapts, at which ranks and scales: it is attached to a copy of
the model without weights.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftConfig
from peft.utils.constants import SEQ_CLS_HEAD_NAMES

from autopeft.adapters.compiling import check_plan, other_base_note
from autopeft.adapters.configs import (
    ConfigFile,
    changed_fields,
    holds_plan,
    in_head,
    is_adapter,
    read_configs,
    type_name,
    unknown_keys,
    unmatched,
)
from autopeft.adapters.skeleton import attach_fitting
from autopeft.errors import SpecError
from autopeft.model import BaseModel
from autopeft.model.linear_layers import role_by_name
from autopeft.model.quantization import conv1d_to_linear
from autopeft.plugins import Method
from autopeft.store import read_plan
from autopeft.types import Adapter, Plan

# Fields that a plan need not repeat: the attached layers have them (the first two lines), or the method reads
# them itself.
_READ_ELSEWHERE = frozenset(
    "r lora_alpha alpha target_modules exclude_modules feedforward_modules target_parameters rank_pattern "
    "alpha_pattern use_rslora use_dora layers_to_transform layers_pattern fan_in_fan_out "
    "modules_to_save ensure_weight_tying init_lora_weights eva_config".split()
)


@dataclass(frozen=True, kw_only=True)
class UserPlan:
    """A user's plan on a base model; `notes` list the settings of the user's file that have no effect."""

    plan: Plan
    notes: tuple[str, ...] = ()


def read_user_plan(path: Path, base: BaseModel, methods: Mapping[str, Method]) -> UserPlan:
    """Read a user's file as a plan on a base model; its learning rate is 0 if the file has none.

    The path is a plan.yaml, a run directory, an adapter_config.json, or a folder of one or of several with
    their order.json. A folder with a plan and a config is read as the plan. Raises SpecError for a file that
    cannot be read or become a plan, TargetError for one of another base model.
    """
    if is_adapter(path) and not holds_plan(path):
        return _plan_of_configs(path, base, methods)
    document = read_plan(path)
    check_plan(document.plan, base, methods)
    note = other_base_note(document, base)
    return UserPlan(plan=document.plan, notes=(note,) if note else ())


def check_user_file(path: Path) -> None:
    """Raise SpecError for a file that `read_user_plan` could read on no base model at all."""
    if is_adapter(path) and not holds_plan(path):
        read_configs(path)
    else:
        read_plan(path)


def _plan_of_configs(path: Path, base: BaseModel, methods: Mapping[str, Method]) -> UserPlan:
    method = methods["lora"]
    adapters: list[Adapter] = []
    notes: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the notes repeat what `peft` warns of while it attaches
        for file in read_configs(path):
            if type_name(file.config) != "LORA":
                raise SpecError(
                    f"{path} is of the type {type_name(file.config)}; only a LoRA config becomes a plan."
                )
            _require_representable(file, base, path=path)
            more_adapters, more_notes = _read_config(file, base, method, path=path)
            adapters += more_adapters
            notes += more_notes
    if not adapters:
        raise SpecError(f"{path} adapts nothing of {base.name} but its task head, which every plan trains.")
    targets = {target.name: target for target in base.targets}
    costs = (method.cost(targets[a.target], a.rank, dict(a.options)) for a in adapters)
    plan = Plan(adapters=tuple(adapters), learning_rate=0.0, trainable_params=sum(costs))
    check_plan(plan, base, methods)
    return UserPlan(plan=plan, notes=tuple(dict.fromkeys(notes)))


def _read_config(
    file: ConfigFile, base: BaseModel, method: Method, *, path: Path
) -> tuple[list[Adapter], list[str]]:
    """Return the adapters that `peft` attaches for one config outside of the task head, and notes."""
    config: Any = file.config
    init = "default" if config.init_lora_weights is True else config.init_lora_weights
    if init not in method.choices["init"]:
        raise SpecError(f"{path} has init_lora_weights {init!r}; a plan can only have true or 'orthogonal'.")
    attached = _attached_layers(config, base, path=path)
    is_all_linear = isinstance(config.target_modules, str) and config.target_modules.lower() == "all-linear"
    modules = [name for name, _ in base.module.named_modules() if name]
    lost = unmatched(file, attached, modules=modules, model=base.module)
    notes = unknown_keys(file)
    notes += [
        f"{name} {value} is left out: every plan is trained without dropout in its adapters."
        for name, value in changed_fields(config).items()
        if name.endswith("dropout")
    ]
    by_weight = {f"{target.name}.weight": target.name for target in base.targets if target.by_weight}
    attached = {by_weight.get(name, name): layer for name, layer in attached.items()}
    inside = [name for name in attached if in_head(name, base)]
    if is_all_linear:  # peft itself leaves out the output layer then
        inside = [name for name in inside if name not in SEQ_CLS_HEAD_NAMES]
    if inside:
        notes.append(f"{', '.join(inside)} is in the task head, which every plan trains whole.")
    notes += [note for note in lost if not note.startswith("modules_to_save")]  # peft adds names there
    layers = {name: layer for name, layer in attached.items() if not in_head(name, base)}
    # A router is not a target module, nor is its weight.
    routers = [name for name in layers if role_by_name(name.removesuffix(".weight")) == "router"]
    if is_all_linear and routers:
        layers = {name: layer for name, layer in layers.items() if name not in routers}
        notes.append(f"Routers, which all-linear adapts too, are left out: {len(routers):,} modules.")
    if unknown := layers.keys() - {target.name for target in base.targets}:
        raise SpecError(
            f"{path} adapts {min(unknown)}, which is not a target module of {base.name}; a plan adapts "
            "linear layers, norms and experts, but no routers; remove it from target_modules."
        )
    adapters = []
    for target in base.targets:
        if layer := layers.get(target.name):
            (rank,), (scale,) = layer.r.values(), layer.scaling.values()
            options = method.options(target, init=init, dora=any(layer.use_dora.values()))
            adapters.append(
                Adapter(
                    method=method.name,
                    target=target.name,
                    rank=rank,
                    scale=float(scale),
                    options=tuple(sorted(options.items())),
                )
            )
    return adapters, notes


def _require_representable(file: ConfigFile, base: BaseModel, *, path: Path) -> None:
    """Raise SpecError for settings that a plan would lose, and for modules outside the head trained whole."""
    modules = [name for name, _ in base.module.named_modules()]
    for ending in getattr(file.config, "modules_to_save", None) or ():
        named = [name for name in modules if name == ending or name.endswith(f".{ending}")]
        outside = [name for name in named if not in_head(name, base)]
        if outside or (not named and ending not in SEQ_CLS_HEAD_NAMES):
            raise SpecError(
                f"{path} trains {outside[0] if outside else ending} whole (modules_to_save), and a plan "
                "trains only the task head so; remove it there, or adapt it by a method."
            )
    for name, value in changed_fields(file.config).items():
        if name not in _READ_ELSEWHERE and not name.endswith("dropout"):
            default = getattr(type(file.config)(), name)
            raise SpecError(f"{path} has {name} {value!r}; a plan can only have {default!r}.")


def _attached_layers(config: PeftConfig, base: BaseModel, *, path: Path) -> dict[str, Any]:
    """Attach a config, without `modules_to_save`, to a copy of the base model without weights.

    Returns module or parameter name -> layer of `peft`.
    """
    with torch.device("meta"):
        module = type(base.module)(copy.deepcopy(cast(Any, base.module.config)))
    if any(target.quantized for target in base.targets):
        conv1d_to_linear(module)
    config = copy.deepcopy(config)
    config.task_type = None
    if hasattr(config, "modules_to_save"):
        config.modules_to_save = None
    return dict(attach_fitting(module, [config], base_name=base.name, path=path).targets())
