"""A user's file, a plan or any adapter config of `peft`, as a plan on the base model at hand.

`peft` itself says which modules a config means, at which ranks and scales: it is attached to a copy of the
model without weights. The configs made of the plan must attach the same.
"""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft.utils.constants import SEQ_CLS_HEAD_NAMES

from autopeft.adapters.checking import check_plan, other_base_note
from autopeft.adapters.layers import AttachedLayer, attached_layers, describe_layer, n_trained
from autopeft.adapters.reading import ConfigFile, holds_plan, is_adapter, read_configs, unknown_keys
from autopeft.adapters.representable import dropout_notes, in_head, method_for, require_representable
from autopeft.adapters.unmatched import require_match, unmatched
from autopeft.errors import SiteError, SpecError
from autopeft.extension import Method, rate_factor
from autopeft.model import DEMO_NAME, BaseModel, known_role
from autopeft.records import Adapter, OptionValue, Plan, Site
from autopeft.store import read_plan


@dataclass(frozen=True, kw_only=True)
class UserPlan:
    """A user's plan on a base model; `notes` say which parts of the user's file have no effect there."""

    plan: Plan
    notes: tuple[str, ...] = ()


def read_user_plan(path: Path, base: BaseModel, methods: Mapping[str, Method]) -> UserPlan:
    """The plan that a user's file means on a base model; its learning rate is 0 where the file has none.

    Args:
        path: plan.yaml, a run directory, an adapter_config.json, or a folder of one or of several
            with their order.json. A folder that holds a plan as well is read as that.
        base: Left as it is.
        methods: By name.

    Raises:
        SpecError: Unreadable, or the file says what a plan cannot.
        SiteError: Made for another base model.
    """
    if is_adapter(path) and not holds_plan(path):
        return _plan_of_configs(path, base, methods)
    document = read_plan(path)
    try:
        check_plan(document.plan, base, methods)
    except SiteError as error:
        made_for = document.model.id or DEMO_NAME
        raise SiteError(
            f"{path} was made for {made_for} and does not fit as it is ({str(error).rstrip('.')}); "
            "use a plan of this base model."
        ) from error
    note = other_base_note(document, base)
    return UserPlan(plan=document.plan, notes=(note,) if note else ())


def check_user_file(path: Path) -> None:
    """Raise SpecError where `read_user_plan` could read a file on no base model at all."""
    if is_adapter(path) and not holds_plan(path):
        read_configs(path)
    else:
        read_plan(path)


def _plan_of_configs(path: Path, base: BaseModel, methods: Mapping[str, Method]) -> UserPlan:
    meanings: list[_Meaning] = []
    notes: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the notes say what `peft` warns of while it attaches
        read = [_without_idle_bias(file, base, path=path) for file in read_configs(path)]
        files = [(file, method_for(file, methods, path=path)) for file in read]
        for file, _ in files:
            require_representable(file, base, path=path)
        for file, method in files:
            meanings.append(_meaning(file, base, method, path=path))
            notes += [*unknown_keys(file), *dropout_notes(file), *meanings[-1].notes]
            notes += _notes(file, meanings[-1].targeted, base)
        plan = _plan([a for meaning in meanings for a in meaning.adapters], base, methods, path=path)
        for meaning in meanings:
            _require_same(meaning, base, path=path)
    return UserPlan(plan=plan, notes=tuple(dict.fromkeys(notes)))


def _without_idle_bias(file: ConfigFile, base: BaseModel, *, path: Path) -> ConfigFile:
    """The config without its `bias` where that trains nothing, as on a Llama, which has no biases."""
    if getattr(file.config, "bias", "none") == "none":
        return file
    require_match(file, base, path=path)
    plain: Any = copy.deepcopy(file.config)
    plain.bias = "none"
    is_idle = n_trained(plain, base, path=path) == n_trained(file.config, base, path=path)
    return dataclasses.replace(file, config=plain) if is_idle else file


@dataclass(frozen=True, kw_only=True)
class _Meaning:
    """What `peft` attaches for one config, by module, and the adapters that say the same.

    `targeted` names all modules that the config adapts, those in the task head too.
    `notes` say what is left out.
    """

    method: Method
    adapters: tuple[Adapter, ...]
    layers: Mapping[str, AttachedLayer]
    targeted: tuple[str, ...]
    notes: tuple[str, ...] = ()


def _meaning(file: ConfigFile, base: BaseModel, method: Method, *, path: Path) -> _Meaning:
    require_match(file, base, path=path)
    config: Any = file.config
    try:
        choices = method.read_choices(config)
    except SpecError as error:
        raise SpecError(f"{path} cannot become a plan: {error}") from error
    targeted = attached_layers([config], base, path=path)
    layers = {name: layer for name, layer in targeted.items() if not in_head(name, base)}
    routers = _routers(layers) if _is_all_linear(file) else {}
    layers = {name: layer for name, layer in layers.items() if name not in routers}
    _require_sites(layers, base, path=path)
    adapters = []
    for site in base.sites:
        if site.name in layers:
            layer = layers[site.name]
            options = {**choices, "feedforward": layer.on_inputs, **({"dora": True} if layer.dora else {})}
            adapters.append(_adapter(method, site, options, rank=layer.rank, scale=layer.scale))
    return _Meaning(
        method=method,
        adapters=tuple(adapters),
        layers=layers,
        targeted=tuple(targeted),
        notes=_router_notes(routers),
    )


def _routers(layers: Mapping[str, AttachedLayer]) -> dict[str, AttachedLayer]:
    """The layers at routers, or at their weights, by name; a router is no site."""
    return {n: layer for n, layer in layers.items() if known_role(n.removesuffix(".weight")) == "router"}


def _router_notes(routers: Mapping[str, AttachedLayer]) -> tuple[str, ...]:
    if not routers:
        return ()
    fewer = sum(layer.params for layer in routers.values())
    return (
        f"Routers, which all-linear adapts too, are left out: {len(routers):,} modules, "
        f"{fewer:,} parameters fewer.",
    )


def _require_sites(layers: Mapping[str, AttachedLayer], base: BaseModel, *, path: Path) -> None:
    known_sites = {site.name for site in base.sites}
    for name, layer in layers.items():
        if name not in known_sites:
            raise SpecError(
                f"{path} adapts {name} ({layer.kind}), which is no site of {base.name}; a plan adapts linear "
                "maps, norms and experts, and no router: change target_modules so that it is not among them."
            )


def _is_all_linear(file: ConfigFile) -> bool:
    targets = file.config.target_modules
    return isinstance(targets, str) and targets.lower() == "all-linear"  # peft compares in lower case


def _plan(adapters: Sequence[Adapter], base: BaseModel, methods: Mapping[str, Method], *, path: Path) -> Plan:
    """The adapters of all configs as one plan, each method at its place in its own range of rates."""
    if not adapters:
        raise SpecError(f"{path} adapts nothing of {base.name} but its task head, which every plan trains.")
    lead = methods[adapters[0].method]
    factors = {name: rate_factor(methods[name], lead) for name in {adapter.method for adapter in adapters}}
    sites = {site.name: site for site in base.sites}
    costs = (methods[a.method].cost(sites[a.site], a.rank, dict(a.options)) for a in adapters)
    plan = Plan(
        adapters=tuple(dataclasses.replace(a, rate_factor=factors[a.method]) for a in adapters),
        learning_rate=0.0,
        trainable_params=sum(costs),
    )
    check_plan(plan, base, methods)
    return plan


def _adapter(
    method: Method, site: Site, choices: Mapping[str, OptionValue], *, rank: int, scale: float | None
) -> Adapter:
    """An adapter with all options; its scale is the method's for that rank where `scale` is None."""
    return Adapter(
        method=method.name,
        site=site.name,
        rank=rank if method.ranked else 0,
        scale=method.scale(rank, **choices) if scale is None else scale,
        options=tuple(sorted(method.options(site, **choices).items())),
    )


def _notes(file: ConfigFile, targeted: Sequence[str], base: BaseModel) -> list[str]:
    """Notes of targets in the task head, and of names that stand for nothing."""
    inside = [name for name in targeted if in_head(name, base)]
    if _is_all_linear(file):  # of which peft itself leaves the last map out
        inside = [name for name in inside if name not in SEQ_CLS_HEAD_NAMES]
    notes = [f"{', '.join(inside)} lies in the task head, which every plan trains whole."] if inside else []
    modules = [name for name, _ in base.module.named_modules() if name]
    lost = unmatched(file, targeted, modules=modules, model=base.module)
    return notes + [note for note in lost if not note.startswith("modules_to_save")]  # peft adds names


def _require_same(meaning: _Meaning, base: BaseModel, *, path: Path) -> None:
    """Refuse a config that the plan's own configs do not repeat, module by module."""
    if not meaning.layers:
        return  # nothing but the head
    planned = attached_layers(meaning.method.configs(meaning.adapters), base, path=path)
    for name, layer in meaning.layers.items():
        if not layer.is_same(planned.get(name)):
            raise SpecError(
                f"{path} means {describe_layer(layer)} at {name}, "
                f"a plan {describe_layer(planned.get(name))}; it cannot be measured as it is."
            )
