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
    columns: dict[str, list[Any]] = {name: [] for name in rewritten}
    for row in _rows(path):
        for name, cells in columns.items():
            cells.append((row if isinstance(row, dict) else {"text": row}).get(name))
    if len(columns[rewritten[0]]) != len(table):
        raise ValueError(f"it is no list of records, and the dates in {', '.join(rewritten)} would be lost")
    sides = [table.remove_columns(rewritten), datasets.Dataset.from_dict(columns)]
    return datasets.concatenate_datasets(sides, axis=1).select_columns(table.column_names)


def _holds_time(feature: Any) -> bool:
    if isinstance(feature, dict):
        return any(map(_holds_time, feature.values()))
    dtype = str(getattr(feature, "dtype", ""))
    return dtype.startswith("timestamp") or _holds_time(getattr(feature, "feature", {}))


def _rows(path: Path) -> Iterator[Any]:
    """The rows of a JSON file by line; from the first value on that goes over several lines, all at once."""
    with path.open(encoding="utf-8-sig") as file:
        for line in file:
            try:
                values = list(_values(line))
            except ValueError:
                values = list(_values(line + file.read()))
            yield from values


def _values(text: str) -> Iterator[Any]:
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
