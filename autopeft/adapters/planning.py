"""A user's file, a plan or any adapter config of `peft`, as a plan on the base model at hand.

`peft` itself says which modules a config means, at which ranks and scales: it is attached to a copy of the
model without weights. The plan made of that is compiled again and must attach the same.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftType
from peft.utils.constants import SEQ_CLS_HEAD_NAMES

from autopeft.adapters.checking import check_plan
from autopeft.adapters.configs import changed_fields, type_name
from autopeft.adapters.layers import attached_layers, describe_layer
from autopeft.adapters.reading import ConfigFile, holds_plan, is_adapter, read_configs, unknown_keys
from autopeft.adapters.stack import compile_plan, rate_factor
from autopeft.adapters.unmatched import require_match, unmatched
from autopeft.errors import SiteError, SpecError
from autopeft.extension import Method
from autopeft.model import DEMO_NAME, BaseModel
from autopeft.records import Adapter, OptionValue, Plan, Site
from autopeft.store import read_plan

# The types whose every number a plan can hold; the others have settings of their own.
_METHOD_OF = {
    PeftType.LORA: "lora",
    PeftType.LOHA: "loha",
    PeftType.HIRA: "hira",
    PeftType.IA3: "ia3",
    PeftType.LN_TUNING: "ln_tuning",
    PeftType.BEFT: "bitfit",
    PeftType.PROMPT_TUNING: "prompt_tuning",
    PeftType.PREFIX_TUNING: "prefix_tuning",
}
# Fields that a plan need not repeat: what the attached layers show, what a model decides of a prompt,
# and what the task, the plan's choices or nothing in training depends on.
_FROM_LAYERS = (
    "r lora_alpha alpha target_modules exclude_modules feedforward_modules target_parameters rank_pattern "
    "alpha_pattern use_rslora use_dora layers_to_transform layers_pattern fan_in_fan_out"
)
_FROM_MODEL = (
    "token_dim num_layers num_attention_heads num_transformer_submodules num_virtual_tokens "
    "prompt_tuning_init tokenizer_name_or_path encoder_hidden_size"
)
_BESIDE = "modules_to_save ensure_weight_tying eva_config init_lora_weights"
_READ_ELSEWHERE = frozenset(f"{_FROM_LAYERS} {_FROM_MODEL} {_BESIDE}".split())


@dataclass(frozen=True, kw_only=True)
class UserPlan:
    """A user's plan on the base model at hand; its learning rate is 0 where the file has none.

    `notes` say which parts of the file have no effect here.
    """

    plan: Plan
    notes: tuple[str, ...] = ()


def read_user_plan(path: Path, base: BaseModel, methods: Mapping[str, Method]) -> UserPlan:
    """The plan that a user's file means on a base model.

    Args:
        path: plan.yaml, a run directory, an adapter_config.json, or a folder of one or of several
            with their order.json. A folder that holds a plan as well is read as that.
        base: Left as it is.
        methods: By name.

    Raises:
        SpecError: Unreadable, or the file says what a plan cannot.
        SiteError: Made for another base model.
    """
    if is_adapter(path) and not (path.is_dir() and holds_plan(path)):
        return plan_of_configs(path, base, methods)
    document = read_plan(path)
    try:
        check_plan(document.plan, base, methods)
    except SiteError as error:
        made_for = document.model.id or DEMO_NAME
        raise SiteError(
            f"{path} was made for {made_for} and does not fit as it is ({str(error).rstrip('.')}); "
            "--warm-start maps a plan onto another base model."
        ) from error
    return UserPlan(plan=document.plan)


def plan_of_configs(path: Path, base: BaseModel, methods: Mapping[str, Method]) -> UserPlan:
    """The same for adapter configs alone, which know no learning rate."""
    files = read_configs(path)
    for file in files:
        _require_sayable(file, path=path, base=base)
    modules = [name for name, _ in base.module.named_modules() if name]
    sites = [site.name for site in base.sites]
    adapters: list[Adapter] = []
    notes: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what peft warns of when it attaches is told as notes
        for file in files:
            require_match(file, modules, sites, where=f"{path} and {base.name}")
            more_adapters, more_notes = _adapters(file, base, methods, path=path)
            adapters += more_adapters
            notes += [*unknown_keys(file), *_dropout_notes(file), *more_notes]
        plan = _plan(adapters, base, methods, path=path)
        for file in files:
            _require_same(file, plan, base, methods, path=path)
    return UserPlan(plan=plan, notes=tuple(dict.fromkeys(notes)))


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


# What a plan cannot say.


def _require_sayable(file: ConfigFile, *, path: Path, base: BaseModel) -> None:
    """Refuse a config with settings that would be lost; the sentence names the first of them."""
    config: Any = file.config
    if config.peft_type not in _METHOD_OF:
        known = ", ".join(sorted(kind.value for kind in _METHOD_OF))
        raise SpecError(
            f"{path} is of the type {type_name(config)}, which a plan cannot hold exactly; "
            f"it can hold {known}."
        )
    for name in getattr(config, "modules_to_save", None) or ():
        held = [held for held, _ in base.module.named_modules() if held == name or held.endswith(f".{name}")]
        outside = [held for held in held if not _in_head(held, base)]
        if outside or (not held and name not in SEQ_CLS_HEAD_NAMES):
            where = outside[0] if outside else f"{name!r}, which {base.name} lacks"
            raise SpecError(
                f"{path} trains {where} whole (modules_to_save), and a plan trains only the task head so; "
                "take it out, or adapt it by a method."
            )
    default = type(config)()
    for name, value in changed_fields(config).items():
        if name not in _READ_ELSEWHERE and not name.endswith("dropout"):
            raise SpecError(
                f"{path} has {name} {value!r}, which a plan cannot say; its own is "
                f"{getattr(default, name)!r}."
            )


def _in_head(name: str, base: BaseModel) -> bool:
    return any(f"{name}.".startswith(f"{head}.") for head in base.head_names)


def _dropout_notes(file: ConfigFile) -> list[str]:
    return [
        f"{name} {value} is left out: every plan is trained without dropout in its adapters."
        for name, value in changed_fields(file.config).items()
        if name.endswith("dropout") and value
    ]


def _choices(config: Any, *, path: Path) -> dict[str, OptionValue]:
    """The options that a whole config stands for."""
    if config.peft_type == PeftType.LORA:
        init = config.init_lora_weights
        if init == "eva" and getattr(config.eva_config, "rho", None) != 1.0:
            raise SpecError(
                f"{path} has init_lora_weights 'eva' with a rho above 1, which moves ranks after the plan is "
                "made; set rho to 1.0 in its eva_config."
            )
        if init is not True and init not in ("orthogonal", "eva"):
            raise SpecError(
                f"{path} has init_lora_weights {init!r}, which a plan cannot say; it can say true, "
                "orthogonal or eva."
            )
        return {"init": "default" if init is True else init}
    if config.peft_type == PeftType.PROMPT_TUNING:
        init = getattr(config.prompt_tuning_init, "value", config.prompt_tuning_init)
        known = {"RANDOM": "random", "SAMPLE_VOCAB": "vocabulary"}
        if init not in known:
            raise SpecError(
                f"{path} has prompt_tuning_init {init!r}, which a plan cannot say; it can say "
                f"{' or '.join(known)}."
            )
        return {"init": known[init]}
    return {}


# What a config means on the model.


def _adapters(
    file: ConfigFile, base: BaseModel, methods: Mapping[str, Method], *, path: Path
) -> tuple[list[Adapter], list[str]]:
    """One adapter for each site that `peft` gives the config, in the model's order, and notes."""
    config: Any = file.config
    method, choices = methods[_METHOD_OF[config.peft_type]], _choices(config, path=path)
    sites = {site.name: site for site in base.sites}
    if config.is_prompt_learning:
        fitting = [site for site in base.sites if method.refusal(site) is None]
        if not fitting:
            raise SiteError(f"{path} has virtual tokens, which {base.name} does not take.")
        rank = config.num_virtual_tokens
        return [_adapter(method, fitting[0], rank, method.scale(rank, **choices), choices)], []
    layers = attached_layers([config], base, path=path)
    adapters = []
    for name, layer in layers.items():
        if _in_head(name, base):
            continue
        if name not in sites:
            raise SpecError(
                f"{path} adapts {name} ({layer.kind}), which is no site of {base.name}; "
                "a plan adapts linear maps, norms and experts."
            )
        options = {**choices, "dora": True} if layer.dora else choices
        adapters.append(_adapter(method, sites[name], layer.rank, layer.scale, options))
    order = {site.name: index for index, site in enumerate(base.sites)}
    return sorted(adapters, key=lambda adapter: order[adapter.site]), _notes(file, list(layers), base)


def _notes(file: ConfigFile, targeted: Sequence[str], base: BaseModel) -> list[str]:
    """Notes of targets in the task head, and of names that stand for nothing."""
    in_head = [name for name in targeted if _in_head(name, base)]
    if file.config.target_modules == "all-linear":  # of which peft itself leaves the last map out
        in_head = [name for name in in_head if name not in SEQ_CLS_HEAD_NAMES]
    notes = [f"{', '.join(in_head)} lies in the task head, which every plan trains whole."] if in_head else []
    lost = unmatched(file, targeted, modules=[name for name, _ in base.module.named_modules() if name])
    return notes + [note for note in lost if not note.startswith("modules_to_save")]  # peft adds names


def _adapter(
    method: Method, site: Site, rank: int, scale: float | None, choices: Mapping[str, OptionValue]
) -> Adapter:
    return Adapter(
        method=method.name,
        site=site.name,
        rank=rank if method.ranked else 0,
        scale=method.scale(rank, **choices) if scale is None else scale,
        options=tuple(sorted(method.options(site, **choices).items())),
    )


def _require_same(
    file: ConfigFile, plan: Plan, base: BaseModel, methods: Mapping[str, Method], *, path: Path
) -> None:
    """Refuse a config that the plan's own configs do not repeat, module by module."""
    if file.config.is_prompt_learning:
        return  # its every field is read or refused
    method = _METHOD_OF[file.config.peft_type]
    adapters = tuple(adapter for adapter in plan.adapters if adapter.method == method)
    compiled = compile_plan(dataclasses.replace(plan, adapters=adapters), methods)
    meant = attached_layers([file.config], base, path=path)
    planned = attached_layers(compiled.configs, base, path=path)
    for name, layer in meant.items():
        if not _in_head(name, base) and not layer.is_same(planned.get(name)):
            repeated = describe_layer(planned.get(name))
            raise SpecError(
                f"{path} means {describe_layer(layer)} at {name}, a plan {repeated}; it cannot be measured "
                "as it is."
            )
