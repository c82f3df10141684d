"""Adapter configs of `peft`: read from files, what their fields mean, and which modules they name."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import peft
import transformers
from peft import PeftConfig, PeftType, PromptLearningConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils.constants import DUMMY_TARGET_MODULES, SEQ_CLS_HEAD_NAMES
from torch import nn

from autopeft.errors import SpecError, UnknownNameError, foreign_file, reason_of
from autopeft.model import BaseModel
from autopeft.model.attaching import head_only_config, rewrite_targets
from autopeft.types import ModelSpec, listed

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
_ALL = ("all-linear", DUMMY_TARGET_MODULES)  # peft's words for sets of modules
_MAX_NAMES = 5  # that a note lists, of what may be every expert; heuristic


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


def in_head(name: str, base: BaseModel) -> bool:
    """Whether a module is in the task head, which every plan trains whole."""
    return any(f"{name}.".startswith(f"{head}.") for head in base.head_names)


def unmatched(
    file: ConfigFile, targeted: Collection[str], *, modules: Collection[str], model: nn.Module
) -> list[str]:
    """Note every name in a config that matches no module; `peft` ignores them silently.

    `targeted` are the modules, and parameters inside modules, that `peft` adapts for the config. `modules`
    are the names of all modules of `model` before it had adapters.
    """
    config = copy.deepcopy(file.config)
    rewrite_targets(config, model)  # as peft does: Mixtral's w1, once a linear layer, is in a parameter now
    notes = []
    for field in (
        "target_modules", "target_parameters", "feedforward_modules", "exclude_modules", "modules_to_save"
    ):  # fmt: skip
        entries = getattr(config, field, None)
        if entries is None or isinstance(entries, str):
            continue
        # peft writes the names of heads into every config of a classifier.
        is_classifier = config.task_type in ("SEQ_CLS", "TOKEN_CLS")
        expected = SEQ_CLS_HEAD_NAMES if is_classifier and field == "modules_to_save" else ()
        choices = modules if field in ("exclude_modules", "modules_to_save") else targeted
        if lost := _absent(set(entries) - {*_ALL, *expected}, choices, _matches_ending):
            notes.append(f"{field} names what is not there: {listed(lost, _MAX_NAMES)}.")
    for field, pattern in vars(config).items():
        keys = pattern if field.endswith("_pattern") and isinstance(pattern, dict) else {}
        if any(isinstance(value, list) for value in keys.values()):
            continue  # of AdaLoRA, by the names of tensors
        if lost := _absent(keys, targeted, _matches_key):
            notes.append(f"{field} has keys that match no target: {listed(lost, _MAX_NAMES)}.")
    return notes


def _matches_ending(entry: str, name: str) -> bool:
    return name == entry or name.endswith(f".{entry}")


def _matches_key(key: str, name: str) -> bool:
    return re.match(rf"(.*\.)?({key})$", name) is not None


def _absent(entries: Iterable[str], names: Collection[str], matches: Callable[[str, str], bool]) -> list[str]:
    """List the entries that match no name, ascending."""
    exact = set(names)  # most entries need no comparison with every name
    return sorted(e for e in entries if e not in exact and not any(matches(e, name) for name in names))
