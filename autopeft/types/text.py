"""Conversion of records to and from JSON, and formatting of numbers and texts for people."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter

Record = TypeVar("Record")


def to_json(record: Any) -> Any:
    """Convert a record to plain dictionaries, lists, strings and numbers."""
    return _adapter(cast(Any, type(record))).dump_python(record, mode="json")


def from_json(kind: type[Record], content: Any) -> Record:
    """Restore a record that `to_json` converted; raises pydantic's ValidationError on other content."""
    return cast(Record, _adapter(cast(Any, kind)).validate_python(content))


def digest_of(content: Any) -> str:
    """Return ten hexadecimal digits of the SHA-256 of JSON content; the order of keys does not matter."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def rate(value: float) -> str:
    """Format a learning rate with two digits, and with an exponent below 0.1 and from 1,000 on."""
    rounded = f"{value:.1e}"
    if value == 0 or 0.1 <= abs(float(rounded)) < 1000:
        return f"{float(rounded):g}"
    mantissa, exponent = rounded.split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def minus(text: str) -> str:
    """Replace the hyphen of a number by a minus sign."""
    return text.replace("-", "−", 1)


def shortened(text: str, most: int) -> str:
    """Cut a text to at most `most` characters; a cut text ends with an ellipsis."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def listed(names: Sequence[str], most: int = 4) -> str:
    """Join names for a sentence, `a, b and c`: the first ones, and how many more there are.

    Example:
        >>> listed(["q"]), listed(["q", "v"]), listed(list("abcdef"), most=3)
        ('q', 'q and v', 'a, b, c and 3 more')
    """
    n_more = len(names) - most
    *start, end = names if n_more <= 1 else [*names[:most], f"{n_more} more"]
    return f"{', '.join(start)} and {end}" if start else end


def counted(number: int, noun: str) -> str:
    """Format a count with its noun, in the plural unless the count is one: `2,000 train rows`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def path_at_home(source: str | Path) -> Path:
    """Replace `~` by the home folder; it stays if the system has no such home, as in some containers."""
    return Path(os.path.expanduser(source))  # noqa: PTH111 - Path.expanduser would raise RuntimeError


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def rate_position(learning_rate: float, bounds: tuple[float, float]) -> float | None:
    """Return the place of a rate in a range on a logarithmic scale, 0 to 1; None in a range of one rate.

    Example:
        >>> rate_position(1e-3, (1e-4, 1e-2)), rate_position(1e-3, (1e-3, 1e-3))
        (0.5, None)
    """
    low, high = bounds
    if learning_rate <= 0 or not 0 < low < high:
        return None
    return math.log(learning_rate / low) / math.log(high / low)
