"""Adapter configs of `peft`: read from files, and what their fields mean."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import peft
import transformers
from peft import PeftConfig, PeftType, PromptLearningConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

from autopeft.errors import SpecError, UnknownNameError, foreign_file, reason_of
from autopeft.model.attaching import head_only_config
from autopeft.types import ModelSpec

# Fields about the origin and state of a config, not about what is trained.
_NOT_TRAINING = frozenset(
    "task_type peft_type auto_mapping peft_version base_model_name_or_path revision inference_mode "
    "runtime_config".split()
)
# Types that add modules or inputs, and change no weights.
_UNMERGEABLE = frozenset(("ADAPTION_PROMPT", "LILY", "POLY", "SHADOW", "XLORA"))
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
_CONFIG, _ORDER = "adapter_config.json", "order.json"


def type_name(config: PeftConfig) -> str:
    """Return the `peft_type` of a config, such as `LORA`."""
    return str(getattr(config.peft_type, "value", config.peft_type))


def task_name(config: PeftConfig) -> str | None:
    """Return the `task_type` of a config, such as `SEQ_CLS`, or None."""
    task: str | None = getattr(config.task_type, "value", config.task_type)
    return task


def adapts_modules(config: PeftConfig) -> bool:
    """Whether a config adapts any module; the one of `head_only_config` adapts none."""
    return bool(getattr(config, "target_modules", None) != head_only_config().target_modules)


def is_unmergeable(config: PeftConfig) -> bool:
    """Whether adapters of a config's type change no weights of the base model, and so cannot be merged."""
    return type_name(config) in _UNMERGEABLE


def reads_weights(config: PeftConfig) -> bool:
    """Whether `peft` cannot attach a config to a model without weights."""
    return type_name(config) in _READS_WEIGHTS


def changed_fields(config: PeftConfig) -> dict[str, Any]:
    """Return the fields about training that differ from their defaults; all empty values count as equal."""
    changed = {}
    for field in dataclasses.fields(config):
        factory = field.default_factory
        default = factory() if factory is not dataclasses.MISSING else field.default
        value = getattr(config, field.name)
        if field.name not in _NOT_TRAINING and value != default and (value or default):
            changed[field.name] = value
    return changed


def auto_class_of(configs: Sequence[PeftConfig]) -> str | None:
    """Return the transformers class that configs are for: by their task, else as `peft` noted it, or None."""
    by_task = [_AUTO_CLASSES.get(task_name(config) or "") for config in configs]
    mappings = [config.auto_mapping for config in configs if isinstance(config.auto_mapping, dict)]
    written = [str(mapping.get("base_model_class")) for mapping in mappings]
    return next((name for name in (*by_task, *written) if name and hasattr(transformers, name)), None)


def base_model_of(configs: Sequence[PeftConfig], *, path: Path) -> ModelSpec:
    """Return the base model that the first config with one has; SpecError if none has."""
    for config in configs:
        if config.base_model_name_or_path:
            return ModelSpec(id=config.base_model_name_or_path, revision=config.revision)
    raise SpecError(f"{path} has no base_model_name_or_path; pass --model.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConfigFile:
    """A config as `peft` reads it, its folder, and the content of its file."""

    folder: Path
    config: PeftConfig
    content: dict[str, Any]


def holds_plan(path: Path) -> bool:
    """Whether a folder holds a plan, by itself or as a run's best."""
    return (path / "plan.yaml").is_file() or (path / "best/plan.yaml").is_file()


def is_adapter(path: Path) -> bool:
    """Whether a path is an adapter config rather than a plan; SpecError for a folder with neither."""
    if not path.is_dir():
        return path.suffix == ".json"
    if (path / _CONFIG).is_file() or (path / _ORDER).is_file():
        return True
    if not holds_plan(path):
        raise SpecError(
            f"{path} holds no plan.yaml, best/plan.yaml, adapter_config.json or order.json; "
            "pass a plan, the folder of a finished run, or the folder of an adapter."
        )
    return False


def read_configs(path: Path) -> list[ConfigFile]:
    """Read the configs of an adapter, in the order in which they are attached.

    The path is an adapter_config.json, its folder, or a folder with an order.json of several. Raises
    SpecError for a file that is missing or damaged, or that `peft` or autopeft refuses.
    """
    if not path.is_dir():
        if path.name != _CONFIG:
            raise SpecError(f"{path} is not an adapter config; peft calls that file {_CONFIG}.")
        return [_read_config(path.parent)]
    if not (path / _ORDER).is_file():
        return [_read_config(path)]
    order = _read_json(path / _ORDER)
    folders = [child.name for child in path.iterdir() if child.is_dir()]  # no name leads out of `path`
    if not isinstance(order, list) or not order or not all(name in folders for name in order):
        raise SpecError(f"{path / _ORDER} has {order!r}; it should be a list of the folders next to it.")
    return [_read_config(path / name) for name in order]


def unknown_keys(file: ConfigFile) -> list[str]:
    """Note the keys in a config's file that this `peft` ignores; no note if it knows all."""
    kind = PEFT_TYPE_TO_CONFIG_MAPPING[file.config.peft_type]
    extra = set(file.content) - {field.name for field in dataclasses.fields(kind)}
    if not extra:
        return []
    written = file.content.get("peft_version")
    by = f", which peft {written} wrote," if written and written != peft.__version__ else ""
    return [
        f"peft {peft.__version__} does not know {', '.join(sorted(extra))} of {type_name(file.config)}{by} "
        "and ignores it; a version that knows it may train more or less."
    ]


def _read_config(folder: Path) -> ConfigFile:
    file = folder / _CONFIG
    content = _read_json(file)
    if not isinstance(content, dict) or "peft_type" not in content:
        raise SpecError(f"{file} has no peft_type; it should be the {_CONFIG} that peft wrote.")
    kind, types = content["peft_type"], [member.value for member in PeftType]
    if kind not in types:
        raise UnknownNameError(f"peft_type (in {file})", str(kind), types)
    if kind == PeftType.XLORA or issubclass(PEFT_TYPE_TO_CONFIG_MAPPING[kind], PromptLearningConfig):
        raise SpecError(f"{file} is {kind}, which adapts no modules by itself; use peft for it.")
    unread = f"{file} is not a config that peft {peft.__version__} reads"
    with foreign_file(lambda error: SpecError(f"{unread}: {reason_of(error)}.")):
        config = PeftConfig.from_pretrained(str(folder))
    config.inference_mode = False
    return ConfigFile(folder=folder, config=config, content=content)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SpecError(f"{path} cannot be read ({error}).") from error
