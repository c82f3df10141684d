"""What recipes for other trainers share: the schedule, LoRA's settings, and problems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from peft import PeftConfig

from autopeft.adapters import changed_fields
from autopeft.extension import ExportSource

WARMUP_SHARE = 0.06  # as a search trains, see `train.course`


def schedule(source: ExportSource, *, scheduler_key: str, warmup_key: str) -> dict[str, Any]:
    """The learning rate where it is known, and how a search trains, under a trainer's own keys.

    Linear decay after a warm-up, no weight decay, gradients clipped at 1.
    """
    rate = {} if source.learning_rate is None else {"learning_rate": source.learning_rate}
    settings = {scheduler_key: "linear", warmup_key: WARMUP_SHARE, "weight_decay": 0.0, "max_grad_norm": 1.0}
    return {**rate, **settings}


def lora_settings(config: PeftConfig, keys: Mapping[str, str]) -> dict[str, Any]:
    """Rank, alpha, dropout and the changed fields of a LoRA config, under a trainer's own keys.

    Args:
        config: Of LoRA.
        keys: Field -> the trainer's key; other fields are left out.
    """
    fields = {"r": config.r, "lora_alpha": config.lora_alpha, "lora_dropout": config.lora_dropout}
    fields |= changed_fields(config)
    return {keys[name]: plain(value) for name, value in fields.items() if name in keys}


def recipe_problems(source: ExportSource) -> tuple[str, ...]:
    """What no trainer of one config takes: another task than language modelling, or a mix."""
    problems = []
    if source.task_type != "CAUSAL_LM":
        task = source.task_type or "no task"
        problems.append(f"it trains causal language models, and the plan is for {task}")
    if len(source.configs) > 1:
        problems.append(f"it takes one config, and the plan has {len(source.configs)}")
    return tuple(problems)


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
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(entry) for entry in value]
    return int(value) if isinstance(value, float) and value == int(value) else value
