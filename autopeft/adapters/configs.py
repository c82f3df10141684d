"""Facts of `peft` configs: type, task, base model, what differs from the defaults, what cannot be merged."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import transformers
from peft import PeftConfig

from autopeft.errors import SpecError
from autopeft.model import head_only_config
from autopeft.records import ModelSpec

# Fields that say where a config comes from and which state it is in, not what is trained.
_NOT_TRAINING = frozenset(
    "task_type peft_type auto_mapping peft_version base_model_name_or_path revision inference_mode "
    "runtime_config".split()
)
# Types whose modules or inputs stay beside the weights.
_BESIDE_WEIGHTS = frozenset(("ADAPTION_PROMPT", "LILY", "POLY", "SHADOW", "XLORA"))
# Types that read numbers of the base model while they are attached.
_READS_WEIGHTS = frozenset(("ADAMSS", "BOFT", "FROD"))
_AUTO_CLASSES = {
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "FEATURE_EXTRACTION": "AutoModel",
}


def type_name(config: PeftConfig) -> str:
    """The `peft_type` of a config, such as `LORA`."""
    return str(getattr(config.peft_type, "value", config.peft_type))


def type_counts(configs: Sequence[PeftConfig]) -> dict[str, int]:
    """How many configs there are of each `peft_type`, by its name."""
    return Counter(map(type_name, configs))


def task_name(config: PeftConfig) -> str | None:
    """`peft`'s word for the task of a config, such as `SEQ_CLS`; None where it has none."""
    task: str | None = getattr(config.task_type, "value", config.task_type)
    return task


def adapts_modules(config: PeftConfig) -> bool:
    """Whether a config adapts anything; that of the task head alone does not."""
    return bool(getattr(config, "target_modules", None) != head_only_config().target_modules)


def stays_beside_weights(config: PeftConfig) -> bool:
    """Whether an adapter is known to be no change of the base model's weights, and cannot be merged."""
    return type_name(config) in _BESIDE_WEIGHTS


def reads_weights(config: PeftConfig) -> bool:
    """Whether `peft` cannot attach a config to a model without weights."""
    return type_name(config) in _READS_WEIGHTS


def changed_fields(config: PeftConfig) -> dict[str, Any]:
    """The fields that say what is trained and differ from their defaults; two empty values are equal."""
    changed = {}
    for field in dataclasses.fields(config):
        factory = field.default_factory
        default = factory() if factory is not dataclasses.MISSING else field.default
        value = getattr(config, field.name)
        if field.name not in _NOT_TRAINING and value != default and (value or default):
            changed[field.name] = value
    return changed


def auto_class_of(configs: Sequence[PeftConfig]) -> str | None:
    """The class of transformers to build, by the configs' task, else the class that `peft` wrote.

    None leaves the class to the base model's own config.
    """
    by_task = [_AUTO_CLASSES.get(task_name(config) or "") for config in configs]
    written = [(config.auto_mapping or {}).get("base_model_class") for config in configs]
    return next((name for name in (*by_task, *written) if name and hasattr(transformers, name)), None)


def base_model_of(configs: Sequence[PeftConfig], *, path: Path) -> ModelSpec:
    """The base model that the first config with a name of one was made for.

    Raises:
        SpecError: None of the configs, which were read from `path`, names one.
    """
    for config in configs:
        if config.base_model_name_or_path and isinstance(config.base_model_name_or_path, str):
            return ModelSpec(id=config.base_model_name_or_path, revision=config.revision)
    raise SpecError(f"{path} does not say which base model it is for; pass --model.")
