"""A user's own file, a plan or any adapter config of `peft`, as a plan on the base model at hand.

`peft` itself says which modules a config means, at which ranks and scales: it is attached to a copy of the
model without weights. The plan made of that is compiled again and must attach the same.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftConfig, PeftType
from peft.tuners.lora.layer import ParamWrapper
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.constants import SEQ_CLS_HEAD_NAMES
from torch import nn

from autopeft import model, train
from autopeft.errors import SiteError, SpecError
from autopeft.extension import Method
from autopeft.model import BaseModel
from autopeft.pipeline.counting import skeleton, sources
from autopeft.pipeline.counting.sources import Source
from autopeft.pipeline.prepare import Prepared, check_plan, quiet_libraries
from autopeft.records import Adapter, OptionValue, Plan, PlanDocument, Site
from autopeft.space import rate_factor
from autopeft.store import read_plan

# The types whose every number a plan can hold; the others have settings of their own.
METHOD_OF = {
    PeftType.LORA: "lora",
    PeftType.LOHA: "loha",
    PeftType.HIRA: "hira",
    PeftType.IA3: "ia3",
    PeftType.LN_TUNING: "ln_tuning",
    PeftType.BEFT: "bitfit",
    PeftType.PROMPT_TUNING: "prompt_tuning",
    PeftType.PREFIX_TUNING: "prefix_tuning",
}
# What the attached layers tell, so that a plan need not say it in the same words.
_RESOLVED = frozenset(
    "r lora_alpha alpha target_modules exclude_modules feedforward_modules target_parameters rank_pattern "
    "alpha_pattern use_rslora use_dora layers_to_transform layers_pattern fan_in_fan_out".split()
)
# What a model tells of a prompt.
_OF_THE_MODEL = frozenset(
    "token_dim num_layers num_attention_heads num_transformer_submodules num_virtual_tokens "
    "prompt_tuning_init tokenizer_name_or_path encoder_hidden_size".split()
)
# Where a config comes from and what it is for, and what has no effect on training.
_BESIDE = frozenset(
    "task_type peft_type auto_mapping peft_version base_model_name_or_path revision inference_mode "
    "modules_to_save runtime_config ensure_weight_tying eva_config init_lora_weights".split()
)


@dataclass(frozen=True, kw_only=True)
class GivenPlan:
    """A user's plan on the base model at hand; its learning rate is 0 where the file has none.

    `notes` say what of the file has no say here.
    """

    plan: Plan
    notes: tuple[str, ...] = ()

    @property
    def learning_rate(self) -> float | None:
        """That of the file, None where it has none."""
        return self.plan.learning_rate or None


def read_given(path: Path, prepared: Prepared) -> GivenPlan:
    """The plan that a user's file means on the base model of a run.

    Args:
        path: plan.yaml, a run directory, an adapter_config.json, or a folder of one or of several
            with their order.json. A folder that holds a plan as well is read as that.
        prepared: The run.

    Raises:
        SpecError: Unreadable, or it says what a plan cannot.
        SiteError: Made for another base model.
    """
    holds_plan = any((path / name).is_file() for name in ("plan.yaml", "best/plan.yaml"))
    if (path.is_dir() and holds_plan) or not sources.is_adapter(path):
        return _read_plan(path, prepared)
    return read_configs(path, prepared.base, prepared.methods)


def _read_plan(path: Path, prepared: Prepared) -> GivenPlan:
    document: PlanDocument = read_plan(path)
    try:
        check_plan(document.plan, prepared.base, prepared.methods)
    except SiteError as error:
        made_for = document.model.id or model.DEMO_NAME
        raise SiteError(
            f"{path} was made for {made_for} and does not fit as it is ({str(error).rstrip('.')}); "
            "--warm-start maps a plan onto another base model."
        ) from error
    return GivenPlan(plan=document.plan)


def read_configs(path: Path, base: BaseModel, methods: Mapping[str, Method]) -> GivenPlan:
    """The same for adapter configs alone, which know no learning rate."""
    found = [sources.read_config(folder) for folder in sources.config_folders(path)]
    for source in found:
        _require_sayable(source, path=path, base=base)
    modules = [name for name, _ in base.module.named_modules() if name]
    sites = [site.name for site in base.sites]
    adapters: list[Adapter] = []
    notes: list[str] = []
    with quiet_libraries(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what peft warns of when it attaches is told as notes
        for source in found:
            own = copy.deepcopy(source.config)
            sources.require_match(source, modules, sites, where=f"{path} and {base.name}")
            read, told = _adapters(source, base, methods, path=path)
            adapters += read
            notes += [*sources.unknown_keys(source), *_dropout(own), *told]
        plan = _plan(adapters, base, methods, path=path)
        for source in found:
            _require_same(source, plan, base, methods, path=path)
    return GivenPlan(plan=plan, notes=tuple(dict.fromkeys(notes)))


def _plan(adapters: Sequence[Adapter], base: BaseModel, methods: Mapping[str, Method], *, path: Path) -> Plan:
    """The adapters of all configs as one plan, each method at its place in its own range of rates."""
    if not adapters:
        raise SpecError(f"{path} adapts nothing of {base.name} but its task head, which every plan trains.")
    lead = methods[adapters[0].method]
    fitted = tuple(
        dataclasses.replace(
            own, rate_factor=1.0 if own.method == lead.name else rate_factor(methods[own.method], lead)
        )
        for own in adapters
    )
    sites = {site.name: site for site in base.sites}
    counted = [(methods[a.method], sites[a.site], a) for a in fitted if a.site in sites]
    plan = Plan(
        adapters=fitted,
        learning_rate=0.0,
        trainable_params=sum(method.cost(site, a.rank, dict(a.options)) for method, site, a in counted),
    )
    check_plan(plan, base, methods)
    return plan


# What a plan cannot say.


def _require_sayable(source: Source, *, path: Path, base: BaseModel) -> None:
    """Refuse a config with settings that would be lost; the sentence names the first of them."""
    config: Any = source.config
    kind = config.peft_type
    if kind not in METHOD_OF:
        known = ", ".join(sorted(own.value for own in METHOD_OF))
        raise SpecError(
            f"{path} is of the type {getattr(kind, 'value', kind)}, which a plan cannot hold exactly; "
            f"it can hold {known}."
        )
    for name in config.modules_to_save or () if hasattr(config, "modules_to_save") else ():
        held = [own for own, _ in base.module.named_modules() if own == name or own.endswith(f".{name}")]
        outside = [own for own in held if not _in_head(own, base)]
        if outside or (not held and name not in SEQ_CLS_HEAD_NAMES):
            where = outside[0] if outside else f"{name!r}, which {base.name} lacks"
            raise SpecError(
                f"{path} trains {where} whole (modules_to_save), and a plan trains only the task head so; "
                "take it out, or adapt it by a method."
            )
    default = type(config)()
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        is_told = field.name in _RESOLVED | _OF_THE_MODEL | _BESIDE or field.name.endswith("dropout")
        if not is_told and value != getattr(default, field.name):
            raise SpecError(
                f"{path} has {field.name} {value!r}, which a plan cannot say; its own is "
                f"{getattr(default, field.name)!r}."
            )


def _in_head(name: str, base: BaseModel) -> bool:
    return any(f"{name}.".startswith(f"{head}.") for head in base.head_names)


def _dropout(config: Any) -> list[str]:
    """Notes of the dropouts that are left out."""
    given = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    return [
        f"{name} {value} is left out: every plan is trained without dropout in its adapters."
        for name, value in given.items()
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
        given = getattr(config.prompt_tuning_init, "value", config.prompt_tuning_init)
        known = {"RANDOM": "random", "SAMPLE_VOCAB": "vocabulary"}
        if given not in known:
            raise SpecError(
                f"{path} has prompt_tuning_init {given!r}, which a plan cannot say; it can say "
                f"{' or '.join(known)}."
            )
        return {"init": known[given]}
    return {}


# What a config means on the model.


def _adapters(
    source: Source, base: BaseModel, methods: Mapping[str, Method], *, path: Path
) -> tuple[list[Adapter], list[str]]:
    """One adapter for each site that `peft` gives the config, in the model's order, and notes."""
    config: Any = source.config
    method, choices = methods[METHOD_OF[config.peft_type]], _choices(config, path=path)
    sites = {site.name: site for site in base.sites}
    if config.is_prompt_learning:
        fitting = [site for site in base.sites if method.refusal(site) is None]
        if not fitting:
            raise SiteError(f"{path} has virtual tokens, which {base.name} does not take.")
        rank = config.num_virtual_tokens
        return [_adapter(method, fitting[0], rank, method.scale(rank, **choices), choices)], []
    attached = attached_layers([config], base, path=path)
    in_head = [name for name in attached if _in_head(name, base)]
    is_all = config.target_modules == "all-linear"  # of which peft itself leaves the last map out
    told = [name for name in in_head if not (is_all and name in SEQ_CLS_HEAD_NAMES)]
    notes = [f"{', '.join(told)} lies in the task head, which every plan trains whole."] if told else []
    modules = [name for name, _ in base.module.named_modules() if name]
    lost = sources.unmatched(source, list(attached), modules=modules)
    notes += [note for note in lost if not note.startswith("modules_to_save")]  # peft adds names of its own
    read = []
    for name, layer in attached.items():
        if name in in_head:
            continue
        if name not in sites:
            raise SpecError(
                f"{path} adapts {name} ({layer.kind}), which is no site of {base.name}; "
                "a plan adapts linear maps, norms and experts."
            )
        own = {**choices, "dora": True} if layer.dora else choices
        read.append(_adapter(method, sites[name], layer.rank, layer.scale, own))
    order = {site.name: index for index, site in enumerate(base.sites)}
    return sorted(read, key=lambda adapter: order[adapter.site]), notes


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


@dataclass(frozen=True, kw_only=True)
class AttachedLayer:
    """What `peft` made at one module; `scale` None where the type has none, `params` are trainable.

    `on_inputs` tells where the factors of IA3 sit.
    """

    kind: str
    rank: int
    scale: float | None
    dora: bool
    on_inputs: bool
    params: int


def attached_layers(
    configs: Sequence[PeftConfig], base: BaseModel, *, path: Path
) -> dict[str, AttachedLayer]:
    """What `peft` makes of configs on a copy of the base model without weights, by module.

    Args:
        configs: Left as they are. The task's own head is not asked for.
        base: Left as it is.
        path: Of the configs, for messages.
    """
    with torch.device("meta"):
        module = type(base.module)(copy.deepcopy(cast(Any, base.module.config)))
    if any(site.quantised for site in base.sites):
        model.conv1d_to_linear(module)
    bare = BaseModel(module, None, name=base.name, untrained=base.untrained)
    own = [copy.deepcopy(config) for config in configs]
    for config in own:
        config.task_type = None
        if hasattr(config, "modules_to_save"):
            config.modules_to_save = None
    with skeleton.fitting(path, base.name):
        attached = skeleton.attach(bare, own)
        skeleton.refuse_overlap(attached, path=path)
    found = {}
    for name, layer in attached.model.get_base_model().named_modules():
        is_inner = name.endswith(".base_layer") and not isinstance(layer, ParamWrapper)
        if isinstance(layer, BaseTunerLayer) and not is_inner:
            at = name
            while at.endswith(".base_layer"):
                at = at.removesuffix(".base_layer")
            if isinstance(layer, ParamWrapper):
                at = f"{at}.{layer.parameter_name}"
            found[at] = _attached_layer(layer)
    return found


def _attached_layer(layer: Any) -> AttachedLayer:
    ranks = list(getattr(layer, "r", {}).values()) if isinstance(getattr(layer, "r", None), Mapping) else []
    scales = getattr(layer, "scaling", None)
    dora = getattr(layer, "use_dora", {})
    base_layer = layer.get_base_layer()
    inner = {id(p) for p in layer.base_layer.parameters()} if isinstance(layer, ParamWrapper) else set()
    return AttachedLayer(
        kind=type(base_layer).__name__ if isinstance(base_layer, nn.Module) else "parameter",
        rank=int(ranks[0]) if ranks else 0,
        scale=float(next(iter(scales.values()))) if isinstance(scales, Mapping) and scales else None,
        dora=isinstance(dora, Mapping) and any(dora.values()),
        on_inputs=bool(getattr(layer, "is_feedforward", False)),
        params=sum(p.numel() for p in layer.parameters() if p.requires_grad and id(p) not in inner),
    )


def _require_same(
    source: Source, plan: Plan, base: BaseModel, methods: Mapping[str, Method], *, path: Path
) -> None:
    """Refuse a config that the plan's own configs do not repeat, module by module."""
    method = METHOD_OF[source.config.peft_type]
    own = [adapter for adapter in plan.adapters if adapter.method == method]
    if source.config.is_prompt_learning:
        return  # its every field is read or refused
    compiled = train.compile_plan(
        Plan(adapters=tuple(own), learning_rate=1.0, trainable_params=plan.trainable_params), methods
    )
    asked = attached_layers([source.config], base, path=path)
    said = attached_layers(compiled, base, path=path)
    differing = Counter(
        name
        for name, layer in asked.items()
        if not _in_head(name, base) and not _is_same(layer, said.get(name))
    )
    if differing:
        name = next(iter(differing))
        raise SpecError(
            f"{path} means {_told(asked[name])} at {name}, a plan {_told(said.get(name))}; "
            "it cannot be raced as it is."
        )


def _is_same(asked: AttachedLayer, said: AttachedLayer | None) -> bool:
    if said is None:
        return False
    alike = [getattr(asked, name) == getattr(said, name) for name in ("rank", "dora", "on_inputs", "params")]
    return all(alike) and math.isclose(asked.scale or 0.0, said.scale or 0.0, rel_tol=1e-9)


def _told(layer: AttachedLayer | None) -> str:
    if layer is None:
        return "nothing"
    if layer.on_inputs:
        return "factors on the inputs"
    return f"{layer.params:,} parameters{'' if layer.scale is None else f' with scale {layer.scale:g}'}"
