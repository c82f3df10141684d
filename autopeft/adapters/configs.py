"""Adapter configs of `peft`: read from files, and what their fields say."""

from __future__ import annotations

import dataclasses
import json
import math
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import peft
import transformers
from peft import PeftConfig, PeftType, PromptLearningConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

from autopeft.errors import SpecError, UnknownNameError, foreign_file, reason_of
from autopeft.model.attaching import head_only_config
from autopeft.types import ModelSpec

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
_CONFIG, _ORDER = "adapter_config.json", "order.json"
_WRITTEN_BY_PEFT = f"it must be the {_CONFIG} that peft wrote"


def type_name(config: PeftConfig) -> str:
    """The `peft_type` of a config, such as `LORA`."""
    return str(getattr(config.peft_type, "value", config.peft_type))


def task_name(config: PeftConfig) -> str | None:
    """`peft`'s word for the task of a config, such as `SEQ_CLS`; None if the config names no task."""
    task: str | None = getattr(config.task_type, "value", config.task_type)
    return task


def adapts_modules(config: PeftConfig) -> bool:
    """Whether a config adapts any module; the one of `head_only_config` adapts none."""
    return bool(getattr(config, "target_modules", None) != head_only_config().target_modules)


def is_unmergeable(config: PeftConfig) -> bool:
    """Whether adapters of a config's type change no weights of the base model, and so cannot be merged."""
    return type_name(config) in _BESIDE_WEIGHTS


def reads_weights(config: PeftConfig) -> bool:
    """Whether `peft` cannot attach a config to a model without weights."""
    return type_name(config) in _READS_WEIGHTS


def changed_fields(config: PeftConfig) -> dict[str, Any]:
    """Return the fields that say what is trained and differ from their defaults; empty values are equal."""
    changed = {}
    for field in dataclasses.fields(config):
        factory = field.default_factory
        default = factory() if factory is not dataclasses.MISSING else field.default
        value = getattr(config, field.name)
        if field.name not in _NOT_TRAINING and value != default and (value or default):
            changed[field.name] = value
    return changed


def auto_class_of(configs: Sequence[PeftConfig]) -> str | None:
    """Name the transformers class that configs are for: by their task, else as `peft` noted it, else None."""
    by_task = [_AUTO_CLASSES.get(task_name(config) or "") for config in configs]
    mappings = [config.auto_mapping for config in configs if isinstance(config.auto_mapping, dict)]
    written = [str(mapping.get("base_model_class")) for mapping in mappings]
    return next((name for name in (*by_task, *written) if name and hasattr(transformers, name)), None)


def base_model_of(configs: Sequence[PeftConfig], *, path: Path) -> ModelSpec:
    """Return the base model that configs, read from `path`, name first; SpecError if none is named."""
    for config in configs:
        if config.base_model_name_or_path and isinstance(config.base_model_name_or_path, str):
            return ModelSpec(id=config.base_model_name_or_path, revision=config.revision)
    raise SpecError(f"{path} does not say which base model it is for; pass --model.")


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
    """Whether a path is an adapter config rather than a plan.

    Raises:
        SpecError: A folder without a plan, a config or an order.
    """
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

    The path is an adapter_config.json, its folder, or a folder with an order.json of several.

    Raises:
        UnknownNameError: A type that this `peft` does not know.
        SpecError: A file that is not there, damaged or unreadable, or that holds what `peft` refuses or
            autopeft does not take.
    """
    if not path.is_dir():
        if path.name != _CONFIG:
            raise SpecError(f"{path} is no adapter config; peft calls that file {_CONFIG}.")
        return [_read_config(path.parent)]
    if not (path / _ORDER).is_file():
        return [_read_config(path)]
    order = _read_json(path / _ORDER)
    # Names of folders right here: no paths that lead elsewhere.
    is_list = isinstance(order, list) and all(
        isinstance(name, str) and name not in ("", ".", "..") and Path(name).name == name for name in order
    )
    if not is_list or not order or len(set(order)) < len(order):
        raise SpecError(
            f"{path / _ORDER} holds {order!r}; it should list the names of the folders beside it, each once."
        )
    return [_read_config(path / name) for name in order]


def unknown_keys(file: ConfigFile) -> list[str]:
    """Make a note of the keys in a config's file that this `peft` leaves out; no note if it knows all."""
    kind = PEFT_TYPE_TO_CONFIG_MAPPING[file.config.peft_type]
    extra = set(file.content) - {field.name for field in dataclasses.fields(kind)}
    if not extra:
        return []
    written = file.content.get("peft_version")
    by = f", which peft {written} wrote," if written and written != peft.__version__ else ""
    return [
        f"peft {peft.__version__} does not know {', '.join(sorted(extra))} of {type_name(file.config)}{by} "
        "and leaves it out; what reads it may train more or less."
    ]


def _read_config(folder: Path) -> ConfigFile:
    file = folder / _CONFIG
    content = _read_json(file)
    if not isinstance(content, dict) or "peft_type" not in content:
        held = "no peft_type" if isinstance(content, dict) else f"a {type(content).__name__}, no object"
        raise SpecError(f"{file} holds {held}; {_WRITTEN_BY_PEFT}.")
    kind, types = content["peft_type"], [member.value for member in PeftType]
    if kind not in types:
        raise UnknownNameError(f"peft_type (in {file})", str(kind), types)
    if kind == PeftType.XLORA:
        raise SpecError(f"{file} is X-LoRA, which mixes other adapters by a gate; count those one by one.")
    if issubclass(PEFT_TYPE_TO_CONFIG_MAPPING[kind], PromptLearningConfig):
        raise SpecError(
            f"{file} is {kind}, which trains virtual tokens; autopeft takes adapters of modules alone: use "
            "peft itself for this one."
        )
    if odd := _misread(content, PEFT_TYPE_TO_CONFIG_MAPPING[kind]):
        raise SpecError(f"{file} has values that peft cannot use: {'; '.join(odd)}; correct them.")
    unread = f"{file} is no config that peft {peft.__version__} reads"
    with foreign_file(lambda error: SpecError(f"{unread}: {reason_of(error)}.")):
        config = PeftConfig.from_pretrained(str(folder))
    config.inference_mode = False
    return ConfigFile(folder=folder, config=config, content=content)


def _misread(content: Mapping[str, Any], config_class: type[PeftConfig]) -> list[str]:
    """Describe values that `peft` would misread in silence, or refuse in an error without their name.

    To `peft` the string `lm_head` as `modules_to_save` means all modules whose name ends in a letter of it.
    """
    phrases = []
    for name, hint in typing.get_type_hints(config_class).items():
        value, expected = content.get(name), ""
        if hint is int and name in content and type(value) is not int:
            # `peft` declares alphas as whole numbers and computes with any number.
            may_be_float = "alpha" in name or "lambda" in name
            if not (may_be_float and isinstance(value, int | float)):
                expected = "a number" if may_be_float else "a whole number"
        elif hint is bool:
            expected = "" if isinstance(value, bool | None) else "true or false"
        elif name == "modules_to_save" and not isinstance(value, list | None):
            expected = "a list"
        elif name == "modules_to_save" and not all(isinstance(entry, str) for entry in value or ()):
            expected = "a list of strings"
        elif name.endswith(("_modules", "_parameters")) and not isinstance(value, str | list | None):
            expected = "a string or a list"
        elif isinstance(value, list) and name.endswith("_modules"):
            expected = "" if all(isinstance(entry, str) for entry in value) else "a list of strings"
        if expected:
            phrases.append(f"{name} is {value!r}, it should be {expected}")
    return phrases


def _read_json(path: Path) -> Any:
    def finite(text: str) -> float:
        """Python reads 1e999 and NaN as numbers without a word."""
        if not math.isfinite(number := float(text)):
            raise ValueError(f"{text} is no finite number")
        return number

    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_float=finite, parse_constant=finite)
    except (OSError, ValueError, RecursionError) as error:
        raise SpecError(f"{path} cannot be read ({error}); {_WRITTEN_BY_PEFT}.") from error
