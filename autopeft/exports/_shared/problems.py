"""Phrases on what a format cannot hold of a plan, and the error made of them; () for no problem."""

from __future__ import annotations

from collections.abc import Sequence

from peft import PeftConfig, PeftType

from autopeft.adapters import is_unmergeable, type_name
from autopeft.adapters.configs import adapts_modules, changed_fields
from autopeft.errors import SpecError
from autopeft.plugins import ExportSource
from autopeft.types import shortened

# Initializations that subtract the adapter's first values from the base model's weights, so that the adapter
# does not fit the original ones (peft 0.21.2, tuners/lora/layer.py, preprocessing of CorDA and LoRA-GA).
_REWRITES_BASE = ("pissa", "olora", "loftq", "corda", "lora_ga")
WITHOUT_EXPERTS = "Use --to merged, or search again with --serve-on vllm, which leaves experts out"
_UNTRAINED = "it has no trained weights yet"


def refuse(name: str, problems: Sequence[str], *, instead: str) -> None:
    """Raise SpecError with everything that a format cannot hold, and what to do instead."""
    if list(problems) == [_UNTRAINED]:
        instead = "Train its plan with `autopeft train`, or use --to native"
    if problems:
        raise SpecError(f"The format {name} cannot hold this: {'; '.join(problems)}. {instead}.")


def untrained(source: ExportSource) -> tuple[str, ...]:
    """Return the problem of a plan without weights."""
    return () if source.weights else (_UNTRAINED,)


def not_lora(configs: Sequence[PeftConfig]) -> tuple[str, ...]:
    """Return the problem that some configs are not LoRA, or that there is none."""
    types = [name for name in dict.fromkeys(map(type_name, configs)) if name != PeftType.LORA.value]
    if types:
        return (f"{', '.join(types)} is not LoRA",)
    return adapts_nothing(configs)


def adapts_nothing(configs: Sequence[PeftConfig]) -> tuple[str, ...]:
    """Return the problem that the task head alone is trained."""
    return () if any(map(adapts_modules, configs)) else ("it adapts no module",)


def lora_problems(configs: Sequence[PeftConfig], *, fields: Sequence[str]) -> tuple[str, ...]:
    """List the fields of LoRA that are set and not in `fields`, and initializations that rewrote the base."""
    problems: list[str] = []
    for config in configs:
        for name, value in changed_fields(config).items():
            if name == "target_parameters" and name not in fields:
                problems += stacked_experts([config])
            elif name not in (*fields, "init_lora_weights"):
                problems.append(f"it cannot express {name}={shortened(repr(value), 40)}")
        problems += rewrites_base([config])
    return tuple(dict.fromkeys(problems))


def stacked_experts(configs: Sequence[PeftConfig]) -> tuple[str, ...]:
    """Return the problem of adapters on experts, which `transformers` 5 keeps in one tensor.

    Names of other `target_parameters` end in `weight`: those of linear layers.
    """
    names = [name for config in configs for name in getattr(config, "target_parameters", None) or ()]
    is_adapted = not all(name.endswith(".weight") for name in names)
    return ("it adapts experts whose weights are stacked in one tensor",) if is_adapted else ()


def rewrites_base(configs: Sequence[PeftConfig]) -> tuple[str, ...]:
    """Return the problem of an initialization that changes the base model's weights."""
    starts = [getattr(config, "init_lora_weights", True) for config in configs]
    names = [start for start in starts if isinstance(start, str) and start.startswith(_REWRITES_BASE)]
    return tuple(f"init_lora_weights={name!r} rewrites the base model" for name in names)


def unmergeable(configs: Sequence[PeftConfig]) -> tuple[str, ...]:
    """Return the problem of methods that do not change weights; for others merging may still fail."""
    names = dict.fromkeys(type_name(config) for config in configs if is_unmergeable(config))
    return (f"{', '.join(names)} does not change the base model's weights",) if names else ()
