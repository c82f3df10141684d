"""What exporters ask of a plan: its configs to write into, its tensors told apart, a refusal."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftType

from autopeft.errors import SpecError
from autopeft.extension import ExportSource
from autopeft.model import head_only_config, spell_out

PREFIX = "base_model.model."  # what `peft` puts before the base model's own names
# Of a config: where it comes from and which state it is in, not what is trained.
_ABOUT = (
    *("task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
    *("inference_mode", "runtime_config"),
)
# First values that are taken off the base model's weights: the adapter means nothing beside the original ones
# (peft 0.21.2, tuners/lora/layer.py and the preprocessing of CorDA and LoRA-GA).
_REWRITES_BASE = ("pissa", "olora", "loftq", "corda", "lora_ga")


def own_configs(source: ExportSource) -> list[PeftConfig]:
    """Copies of the configs, to write or to attach; task and head in the one that does the forward."""
    configs = [copy.deepcopy(config) for config in source.configs] or [head_only_config()]
    if source.base is not None:
        for config in configs:
            spell_out(config, source.base)  # a pattern that `peft` would widen
    forward = configs[-1] if configs[-1].is_prompt_learning else configs[0]
    forward.task_type = source.task_type
    forward.modules_to_save = list(source.head) or None
    return configs


_UNTRAINED = "it has no trained weights yet"


def refuse(name: str, problems: Sequence[str], *, instead: str) -> None:
    """Raise SpecError with everything that a format cannot say, and what to do instead."""
    if problems:
        if list(problems) == [_UNTRAINED]:
            instead = "Train its plan with `autopeft train`, or use --to native"
        raise SpecError(f"The format {name} cannot hold this: {'; '.join(problems)}. {instead}.")


def untrained(source: ExportSource) -> tuple[str, ...]:
    """The problem of a plan without weights."""
    return () if source.weights else (_UNTRAINED,)


def changed(config: PeftConfig) -> dict[str, Any]:
    """The fields of a config that differ from their defaults and say what is trained."""
    found = {}
    for field in dataclasses.fields(config):
        factory = field.default_factory
        default = factory() if factory is not dataclasses.MISSING else field.default
        value = getattr(config, field.name)
        if field.name not in _ABOUT and value != default and not (not value and not default):
            found[field.name] = value
    return found


def kinds(configs: Sequence[PeftConfig]) -> dict[str, int]:
    """How many configs there are of each `peft_type`, by its name."""
    names = [str(getattr(config.peft_type, "value", config.peft_type)) for config in configs]
    return {name: names.count(name) for name in dict.fromkeys(names)}


def not_lora(configs: Sequence[PeftConfig]) -> tuple[str, ...]:
    """The problem that some configs are not LoRA, or that there is none."""
    others = [name for name in kinds(configs) if name != PeftType.LORA.value]
    if not configs or (not others and not any(adapts_something(config) for config in configs)):
        return ("it adapts no module",)
    return (f"{', '.join(others)} is not LoRA",) if others else ()


def trained_whole(source: ExportSource) -> tuple[str, ...]:
    """The problem that a language model's own modules are trained too, which readers of LoRA pass over."""
    if source.task_type not in ("CAUSAL_LM", "SEQ_2_SEQ_LM") or not source.head:
        return ()
    return (f"modules_to_save={_short(list(source.head))} is read by none of its readers",)


def adapts_something(config: PeftConfig) -> bool:
    """Whether a config targets a module at all; that of the head alone does not."""
    return bool(getattr(config, "target_modules", None) != head_only_config().target_modules)


def lora_problems(config: PeftConfig, *, known: Sequence[str]) -> list[str]:
    """What of a LoRA config goes beyond the fields in `known`."""
    problems = [
        f"{name}={_short(value)} has no place in it"
        for name, value in changed(config).items()
        if name not in (*known, "init_lora_weights")
    ]
    first = getattr(config, "init_lora_weights", True)
    if isinstance(first, str) and first.startswith(_REWRITES_BASE):
        problems.append(f"init_lora_weights={first!r} rewrites the base model")
    return problems


def is_lora(config: PeftConfig) -> bool:
    """Whether a config is of LoRA proper."""
    return isinstance(config, LoraConfig) and config.peft_type == PeftType.LORA


def head_tensors(source: ExportSource) -> dict[str, torch.Tensor]:
    """The trained head by the base model's names."""
    return {
        key.removeprefix(PREFIX): tensor
        for weights in source.weights
        for key, tensor in weights.items()
        if in_head(key, source.head)
    }


def in_head(key: str, head: Sequence[str]) -> bool:
    """Whether a name lies within a module of the head; `peft` matches those by their endings."""
    inner = f".{key.removeprefix(PREFIX)}"
    return ".lora_" not in key and any(f".{name}." in inner for name in head)


def contiguous(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copies that safetensors takes: on the CPU, laid out whole, none sharing memory."""
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
