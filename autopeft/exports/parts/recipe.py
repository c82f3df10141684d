"""What recipes for other trainers share: the schedule, LoRA's settings, and problems."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from typing import Any

import peft
from peft import PeftConfig

from autopeft.adapters import changed_fields
from autopeft.exports.parts.problems import adapts_nothing, lora_problems, not_lora
from autopeft.extension import ExportSource
from autopeft.train import WARMUP_SHARE


def schedule(source: ExportSource, *, scheduler_key: str, warmup_key: str) -> dict[str, Any]:
    """The learning rate where it is known, and the schedule of a search, under a trainer's keys."""
    known = source.training.learning_rate
    rate = {} if known is None else {"learning_rate": known}
    settings = {scheduler_key: "linear", warmup_key: WARMUP_SHARE, "weight_decay": 0.0, "max_grad_norm": 1.0}
    return {**rate, **settings}


def length(source: ExportSource, keys: Mapping[str, str]) -> dict[str, Any]:
    """Batch size, length of a run and of its examples, and the seed, as far as known, by a trainer's keys.

    Steps override epochs, and trainers have a default for these.
    """
    known = vars(source.training)
    names = [name for name in keys if known[name] is not None]
    if known["max_steps"] is not None and "epochs" in names:
        names.remove("epochs")
    return {keys[name]: plain(known[name]) for name in names}


def lora_settings(config: PeftConfig, keys: Mapping[str, str]) -> dict[str, Any]:
    """Rank, alpha, dropout and changed fields of a LoRA config, by the keys that a trainer has for them."""
    fields = {"r": config.r, "lora_alpha": config.lora_alpha, "lora_dropout": config.lora_dropout}
    fields |= changed_fields(config)
    return {keys[name]: plain(value) for name, value in fields.items() if name in keys}


def recipe_problems(source: ExportSource) -> tuple[str, ...]:
    """The problems of another task than language modelling, and of a mix of methods."""
    problems = []
    if source.task_type != "CAUSAL_LM":
        task = source.task_type or "no task"
        problems.append(f"it trains causal language models, and the plan is for {task}")
    if source.base_model.endswith(".gguf"):
        problems.append("its loader reads no GGUF file; pass --model with the model in safetensors")
    if len(source.configs) > 1:
        problems.append(f"it takes one config, and the plan has {len(source.configs)}")
    return tuple(problems)


def lora_recipe_problems(
    source: ExportSource,
    *,
    known: Sequence[str],
    further: Callable[[PeftConfig], Iterable[str]] = lambda config: (),
) -> tuple[str, ...]:
    """What a trainer of one LoRA config with whole alphas cannot do.

    Args:
        source: The plan.
        known: The fields of LoRA that the trainer takes.
        further: Gives the problems of the config that only this trainer has.
    """
    problems = (*not_lora(source.configs), *recipe_problems(source))
    if source.checkpoint.own_class:
        problems += (f"it loads {source.checkpoint.own_class}, of which the modules have other names",)
    if problems:
        return problems
    (config,) = source.configs
    alphas = {config.lora_alpha, *config.alpha_pattern.values()}
    odd = ", ".join(str(alpha) for alpha in sorted(alphas) if alpha != int(alpha))
    fractions = (f"its alphas are whole numbers, and the plan has {odd}",) if odd else ()
    return (*lora_problems([config], known=known), *fractions, *further(config))


def text_comment(source: ExportSource, *, advice: str) -> str:
    """Comment lines of how the search wrote a row as one text, with advice; empty where that is not known.

    Both YAML and Python read them.
    """
    if not (form := source.training.text_form):
        return ""
    text = f"How a row was written as one text when this was found: {form} {advice}"
    shown = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
    return textwrap.fill(shown, width=100, initial_indent="# ", subsequent_indent="# ") + "\n"


def rate_note(source: ExportSource) -> tuple[str, ...]:
    """The remark that a learning rate is missing."""
    return () if source.training.learning_rate else ("the learning rate is not known; set it",)


def plain(value: Any) -> Any:
    """A value as YAML and Python both write it: sets as sorted lists, whole floats as integers."""
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, Mapping):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(entry) for entry in value]
    return int(value) if isinstance(value, float) and value == int(value) else value


def one_config_problems(source: ExportSource) -> tuple[str, ...]:
    """What code with a single `peft` config cannot hold: no adapter, a mix, another task, odd values."""
    if nothing := adapts_nothing(source.configs):
        return nothing
    problems = [*recipe_problems(source)]
    for config in source.configs:
        class_name = type(config).__name__
        if getattr(peft, class_name, None) is not type(config):
            problems.append(f"{class_name} is no config of peft itself")
        for name, value in changed_fields(config).items():
            if not _is_plain(value):
                problems.append(f"{name} of {class_name} is a {type(value).__name__}")
    return tuple(problems)


def instead_of_yaml(source: ExportSource) -> str:
    """The formats that can hold what a YAML for another trainer cannot."""
    return "Use --to native" if one_config_problems(source) else "Use --to trl or --to native"


def _is_plain(value: Any) -> bool:
    """Whether a value can be written as a Python literal, an enum's member by its value."""
    if isinstance(value, dict):
        return all(_is_plain(entry) for pair in value.items() for entry in pair)
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | int | float | bool | Enum)
