"""Reads adapter configs as `peft` wrote them, one or several in their order."""

from __future__ import annotations

import dataclasses
import enum
import json
import math
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import peft
from peft import PeftConfig, PeftType, PromptLearningConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

from autopeft.adapters.configs import type_name
from autopeft.errors import SpecError, UnknownNameError, reason_of
from autopeft.store import require_unchanged

_CONFIG, _ORDER = "adapter_config.json", "order.json"
_WRITTEN_BY_PEFT = f"it must be the {_CONFIG} that peft wrote"

_NUMBER, _WHOLE, _TEXT, _LIST, _OBJECT = "a number", "a whole number", "a string", "a list", "an object"
_TRUTH, _NULL = "true or false", "null"
_NOUNS = (_NUMBER, _WHOLE, _TEXT, _LIST, _OBJECT, _TRUTH, _NULL)  # in the order in which a message names them
_KINDS: Mapping[Any, tuple[str, ...]] = {
    bool: (_TRUTH,),  # before int, of which it is a subclass
    int: (_WHOLE,),
    float: (_NUMBER, _WHOLE),
    str: (_TEXT,),
    **dict.fromkeys((list, set, tuple), (_LIST,)),
    dict: (_OBJECT,),
    type(None): (_NULL,),
}


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
    """The configs of an adapter, in the order in which they are attached.

    Args:
        path: An adapter_config.json, its folder, or a folder with an order.json of several.

    Raises:
        UnknownNameError: A type that this `peft` does not know.
        SpecError: A file of another name, an order that lists no folders beside it, an unreadable config,
            a file that differs from its checksum, a type that trains virtual tokens, or values that `peft`
            refuses.
    """
    if path.is_dir():
        require_unchanged(path)
    elif path.name != _CONFIG:
        raise SpecError(f"{path} is no adapter config; peft calls that file {_CONFIG}.")
    else:
        return [_read_config(path.parent)]
    if not (path / _ORDER).is_file():
        return [_read_config(path)]
    order = _read_json(path / _ORDER)
    # The name of a folder right here: no path, and no link that leads elsewhere.
    is_list = isinstance(order, list) and all(
        isinstance(name, str) and name not in ("", ".", "..") and Path(name).name == name for name in order
    )
    if not is_list or not order or len(set(order)) < len(order):
        expected = "each folder once" if is_list and order else "the names of the folders beside it"
        raise SpecError(f"{path / _ORDER} holds {order!r}; it should list {expected}.")
    return [_read_config(path / name) for name in order]


def unknown_keys(file: ConfigFile) -> list[str]:
    """A note where a config's file has keys that this `peft` leaves out."""
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
    kind, known = content["peft_type"], [member.value for member in PeftType]
    if kind not in known:
        if str(kind).upper() in known:
            raise SpecError(f"{file} has the peft_type {kind!r}; peft writes it in capitals.")
        raise UnknownNameError(f"peft_type (in {file})", str(kind), known)
    if kind == PeftType.XLORA:
        raise SpecError(f"{file} is X-LoRA, which mixes other adapters by a gate; count those one by one.")
    if issubclass(PEFT_TYPE_TO_CONFIG_MAPPING[kind], PromptLearningConfig):
        raise SpecError(
            f"{file} is {kind}, which trains virtual tokens; autopeft takes adapters of modules alone: use "
            "peft itself for this one."
        )
    odd = _faults(content, PEFT_TYPE_TO_CONFIG_MAPPING[kind])
    if odd:
        raise SpecError(f"{file} has values that peft cannot use: {'; '.join(odd)}; correct them.")
    try:
        config = PeftConfig.from_pretrained(str(folder))
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        reason = reason_of(error)
        raise SpecError(f"{file} is no config that peft {peft.__version__} reads: {reason}.") from error
    config.inference_mode = False
    return ConfigFile(folder=folder, config=config, content=content)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SpecError(f"{path} cannot be read ({error}); {_WRITTEN_BY_PEFT}.") from error


def _faults(content: Mapping[str, Any], config_class: type[PeftConfig]) -> list[str]:
    """A phrase for each field of a file's content whose value is of a kind that `peft` cannot use.

    `peft` reads any value into its dataclasses and fails later, in words of Python's, or not at all: the
    string `lm_head` as `modules_to_save` means every module whose name ends in one of its letters. Fields
    that the config's class lacks are passed over.
    """
    hints = typing.get_type_hints(config_class)
    names = [field.name for field in dataclasses.fields(config_class) if field.name in content]
    phrases = []
    for name in names:
        allowed = _kinds(hints[name])  # None where the declaration takes anything
        if name == "modules_to_save":  # declared as text too by some, and read letter by letter
            allowed = frozenset({_LIST, _NULL})
        elif allowed and _WHOLE in allowed and ("alpha" in name or "lambda" in name):
            allowed |= {_NUMBER}  # `peft` declares whole numbers and computes with any
        phrases.append(_fault(name, content[name], allowed))
    return [phrase for phrase in phrases if phrase]


def _fault(name: str, value: Any, allowed: frozenset[str] | None) -> str:
    """A phrase for one field; empty where its value is allowed. Only whole numbers must not be null."""
    kind = _kind_of(value)
    if isinstance(value, float) and not math.isfinite(value):
        return f"{name} is {value}, it should be finite"
    if allowed is not None and kind not in allowed and not (kind == _NULL and _WHOLE not in allowed):
        hidden = {_NULL, _WHOLE} if _NUMBER in allowed else {_NULL}
        nouns = [noun for noun in _NOUNS if noun in allowed - hidden]
        return f"{name} is {value!r}, it should be {' or '.join(nouns)}"
    entries = value if isinstance(value, list) and name.endswith("_modules") else ()
    for entry in entries:
        if not isinstance(entry, str):
            return f"{name} lists {entry!r}, it should list strings"
    pattern = value if isinstance(value, dict) and name.endswith("_pattern") else {}
    for key, number in pattern.items():
        if _kind_of(number) not in (_NUMBER, _WHOLE, _LIST):  # AdaLoRA lists what it has kept
            return f"{name} gives {number!r} to {key}, it should give a number"
        if isinstance(number, float) and not math.isfinite(number):
            return f"{name} gives {number} to {key}, it should be finite"
    return ""


def _kinds(hint: Any) -> frozenset[str] | None:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        parts = [_kinds(part) for part in typing.get_args(hint)]
        return None if None in parts else frozenset[str]().union(*(part for part in parts if part))
    if origin is typing.Literal:
        return frozenset(_kind_of(value) for value in typing.get_args(hint))
    plain = origin or hint
    if plain in _KINDS:
        return frozenset(_KINDS[plain])
    return frozenset({_TEXT}) if isinstance(hint, type) and issubclass(hint, enum.Enum) else None


def _kind_of(value: Any) -> str:
    return next(kinds[0] for kind, kinds in _KINDS.items() if isinstance(value, kind))
