"""Strings of a JSON file that look like times, as they are written; pyarrow turns them into timestamps."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets


def with_strings(table: Any, path: Path) -> Any:
    """The table of a JSON file with its strings in place of timestamps; JSON itself has none.

    Raises a ValueError if the rows of the file are not those of the table.
    """
    rewritten = [name for name, feature in table.features.items() if _holds_time(feature)]
    if not rewritten:
        return table
    rows = [
        row if isinstance(row, dict) else {"text": row} for row in _rows(path.read_text(encoding="utf-8-sig"))
    ]
    if len(rows) != len(table):
        raise ValueError(f"it is no list of records, and the dates in {', '.join(rewritten)} would be lost")
    strings = datasets.Dataset.from_dict({name: [row.get(name) for row in rows] for name in rewritten})
    columns = [table.remove_columns(rewritten), strings]
    return datasets.concatenate_datasets(columns, axis=1).select_columns(table.column_names)


def _holds_time(feature: Any) -> bool:
    if isinstance(feature, dict):
        return any(map(_holds_time, feature.values()))
    dtype = str(getattr(feature, "dtype", ""))
    return dtype.startswith("timestamp") or _holds_time(getattr(feature, "feature", {}))


def _rows(text: str) -> Iterator[Any]:
    """The values in a text of JSON, one after the other; those of a list singly."""
    decoder = json.JSONDecoder()
    start = 0
    while (start := _after_blanks(text, start)) < len(text):
        value, start = decoder.raw_decode(text, start)
        if isinstance(value, list):
            yield from value
        else:
            yield value


def _after_blanks(text: str, start: int) -> int:
    while start < len(text) and text[start] in " \t\r\n":
        start += 1
    return start
