"""Whether the values of an adapter config are of the kinds that `peft` declares.

`peft` reads any value into its dataclasses and fails later, in words of Python's, or not at all:
the string `lm_head` as `modules_to_save` means every module whose name ends in one of its letters.
"""

from __future__ import annotations

import dataclasses
import enum
import math
import types
import typing
from collections.abc import Mapping
from typing import Any

from peft import PeftConfig

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


def faults(content: Mapping[str, Any], config_class: type[PeftConfig]) -> list[str]:
    """A phrase for each field of a file's content whose value is of a kind that `peft` cannot use.

    Fields that the config's class lacks are passed over.
    """
    hints = typing.get_type_hints(config_class)
    names = [field.name for field in dataclasses.fields(config_class) if field.name in content]
    phrases = (_fault(name, content[name], _allowed(name, hints[name])) for name in names)
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


def _allowed(name: str, hint: Any) -> frozenset[str] | None:
    """The kinds of values that a declaration takes; None where it may take anything."""
    if name == "modules_to_save":  # declared as text too by some, and read letter by letter
        return frozenset({_LIST, _NULL})
    kinds = _kinds(hint)
    if kinds and _WHOLE in kinds and ("alpha" in name or "lambda" in name):
        return kinds | {_NUMBER}  # `peft` declares whole numbers and computes with any
    return kinds


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
