"""Functions, records and errors as JSON text, for workers that share no memory with the search.

Nothing is unpickled: a text names functions and classes, and its reader looks up only names that it knows.
"""

from __future__ import annotations

import builtins
import contextlib
import json
import pkgutil
from collections.abc import Collection
from typing import Any

from pydantic import ValidationError

from autopeft import errors
from autopeft.errors import SpecError, TrainingError
from autopeft.records import from_json, to_json


def encode(value: Any) -> str:
    """The text of a number, string, sequence, function or record, or of a sequence that holds such values.

    Example:
        >>> encode((1, "a", pow))
        '[1, "a", {"name": "builtins:pow"}]'
    """
    return json.dumps(_content(value))


def decode(text: str, known: Collection[str]) -> Any:
    """The value of a text; sequences are tuples.

    Args:
        text: What `encode` gave.
        known: The functions and classes that a text may name, as `module:name`.

    Raises:
        SpecError: It names another function or class, or a record of other fields.

    Example:
        >>> decode('[1, {"name": "builtins:pow"}]', ["builtins:pow"])
        (1, <built-in function pow>)
    """
    return _value(json.loads(text), known)


def encode_error(error: BaseException) -> str:
    """The text of an exception: the name of its type, and its message."""
    return json.dumps([type(error).__name__, str(error)])


def decode_error(text: str) -> Exception:
    """The exception of a text; one whose type is not Python's own becomes a TrainingError."""
    name, message = json.loads(text)
    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        # UnicodeDecodeError, for one, takes five arguments; such an error becomes a TrainingError below.
        with contextlib.suppress(TypeError):
            return kind(message)
    return TrainingError(message if hasattr(errors, name) else f"{name}: {message}")


def name_of(part: Any) -> str:
    """`module:name` of a function or class."""
    return f"{part.__module__}:{part.__qualname__}"


def _content(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_content(item) for item in value]
    if hasattr(value, "__qualname__"):
        return {"name": name_of(value)}
    return {"record": name_of(type(value)), "fields": to_json(value)}


def _value(content: Any, known: Collection[str]) -> Any:
    if isinstance(content, list):
        return tuple(_value(item, known) for item in content)
    if not isinstance(content, dict):
        return content
    name = str(content.get("record", content.get("name")))
    if name not in known:
        raise SpecError(f"The search asks for {name}, which is nothing that a worker knows.")
    part = pkgutil.resolve_name(name)
    if "record" not in content:
        return part
    try:
        return from_json(part, content["fields"])
    except ValidationError as error:
        raise SpecError(f"The search sent a {part.__name__} of another version: {error}.") from error
