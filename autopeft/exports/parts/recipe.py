"""The schedule and the problems that recipes for other trainers share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from peft import PeftConfig

from autopeft.extension import ExportSource

# The schedule that a search trains with (autopeft/train.py), in the words that transformers has for it.
WARMUP_SHARE = 0.06
_SCHEDULES = "linear"


def schedule(*, scheduler_key: str, warmup_key: str) -> dict[str, Any]:
    """Linear decay after a warm-up, no weight decay, gradients clipped at 1, under a trainer's own keys."""
    return {scheduler_key: _SCHEDULES, warmup_key: WARMUP_SHARE, "weight_decay": 0.0, "max_grad_norm": 1.0}


def recipe_problems(source: ExportSource) -> tuple[str, ...]:
    """What no trainer of one config takes: another task than language modelling, a mix, nothing at all."""
    found = []
    if source.task_type != "CAUSAL_LM":
        found.append(f"it trains causal language models, and the plan is for {source.task_type or 'no task'}")
    if len(source.configs) > 1:
        found.append(f"it takes one config, and the plan has {len(source.configs)}")
    return tuple(found)


def rate_note(source: ExportSource) -> tuple[str, ...]:
    """The remark that a learning rate is missing."""
    return () if source.learning_rate else ("the learning rate is not known; set it",)


def whole_alphas(config: PeftConfig) -> tuple[str, ...]:
    """The problem that some alpha is no whole number."""
    alphas = {config.lora_alpha, *config.alpha_pattern.values()}
    odd = sorted(alpha for alpha in alphas if alpha != int(alpha))
    return (f"its alphas are whole numbers, and the plan has {', '.join(map(str, odd))}",) if odd else ()


def plain(value: Any) -> Any:
    """A value as YAML and Python both write it: sets as sorted lists, whole floats as integers."""
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, Mapping):
        return {key: plain(own) for key, own in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(own) for own in value]
    return int(value) if isinstance(value, float) and value == int(value) else value
