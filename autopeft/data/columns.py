"""Which columns of a table hold what, and their cells as strings, the same from every file format."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from autopeft.data.rows import Row
from autopeft.errors import DataError, UnknownNameError
from autopeft.records import DataSpec

NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?")


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns of the inputs, of the label, and of what keeps rows together or in order."""

    inputs: tuple[str, ...]
    label: str
    group: str | None = None
    time: str | None = None


def check_named(spec: DataSpec, names: Sequence[str]) -> None:
    """Refuse a column that the spec names and the train table lacks; raises UnknownNameError."""
    asked = [*spec.text_columns, spec.label_column, spec.group_column, spec.time_column]
    for column in asked:
        if column is not None and column not in names:
            raise UnknownNameError("column", column, names)


def usual(names: Sequence[str], known: str) -> str | None:
    """The first of some usual names, the most telling first, that a table has, case aside."""
    by_lower = {name.lower(): name for name in names}
    return next((by_lower[name] for name in known.split() if name in by_lower), None)


def is_numeric(cells: Sequence[str | None]) -> bool:
    """Whether every cell that is there reads as a number."""
    return all(NUMBER.fullmatch(cell.strip()) for cell in cells if cell)


def rows_of(part: str, table: Any, columns: Columns, *, kind: str | None = None) -> list[tuple[Row, Any]]:
    """Rows of strings with the cell of their time; None where something is missing.

    Args:
        part: train, confirm or test; the label may be missing in the last two.
        table: What a source gave.
        columns: Which.
        kind: The target's; lists of labels are read where it is None or `classes`.

    Raises:
        DataError: A column is not there, or holds lists where one value is needed.
    """
    inputs = [[as_string(cell, name) for cell in cells_of(part, table, name)] for name in columns.inputs]
    labels = _labels(part, table, columns.label, kind)
    groups, times = beside(part, table, columns)
    return [
        (Row(tuple(cells), label, group), time)
        for *cells, label, group, time in zip(*inputs, labels, groups, times, strict=True)
    ]


def beside(part: str, table: Any, columns: Columns) -> tuple[list[str | None], list[Any]]:
    """The groups of the rows as strings and the cells of their times, which only train needs to have."""
    groups, times = (
        [None] * len(table) if name is None else cells_of(part, table, name, is_needed=part == "train")
        for name in (columns.group, columns.time)
    )
    return [as_string(cell, str(columns.group)) for cell in groups], list(times)


def cells_of(part: str, table: Any, name: str, *, is_needed: bool = True) -> Sequence[Any]:
    """The cells of a column; where a table lacks one that is not needed, None for each row.

    Raises:
        DataError: A column that is needed is not there.
    """
    if name in table.column_names:
        cells: Sequence[Any] = table[name]
        return cells
    if is_needed:
        raise DataError(f"A {part} table lacks column {name}; it has {', '.join(table.column_names)}.")
    return [None] * len(table)


def as_label(cell: Any, column: str) -> str | None:
    """A cell as text; one missing label turns a column of integers into floats: "1.0" is label 1."""
    text = as_string(cell, column)
    return text and re.sub(r"^(-?\d+)\.0$", r"\1", text.strip())


def _labels(part: str, table: Any, column: str, kind: str | None) -> list[Any]:
    feature = table.features.get(column)
    names = getattr(getattr(feature, "feature", feature), "names", None) or ()

    def named(cell: Any, index: int) -> str | None:
        plain = as_label(cell, column)
        if not names or plain is None:
            return plain
        return None if plain == "-1" else name_of(plain, names, f"row {index + 1} of {part}", column)

    found: list[Any] = []
    for index, cell in enumerate(cells_of(part, table, column, is_needed=part == "train")):
        if isinstance(cell, list) and kind in (None, "classes"):
            own = [named(item, index) for item in cell]
            found.append(tuple(dict.fromkeys(name for name in own if name is not None)))
        elif kind == "classes" and cell is not None:
            words = [word.strip() for word in re.split("[,;|]", str(cell)) if word.strip()]
            found.append(tuple(dict.fromkeys(words)))
        else:
            found.append(named(cell, index))
    return found


def name_of(code: str, names: Sequence[str], where: str, column: str) -> str:
    """The label with a number among the declared ones.

    Raises:
        DataError: It is none of their numbers.
    """
    if code.isdigit() and int(code) < len(names):
        return names[int(code)]
    raise DataError(
        f"The label {code} in {where} is none of the {len(names)} that column {column} declares "
        f"({', '.join(names[:3])}{', …' if len(names) > 3 else ''}); correct it to 0 to {len(names) - 1}."
    )


def as_string(cell: Any, column: str) -> str | None:
    """A cell as text, None where it is missing or blank."""
    if isinstance(cell, list | dict):
        raise DataError(f"Column {column} holds {str(cell)[:60]}; allowed is one text or label per row.")
    is_missing = cell is None or cell != cell  # NaN alone differs from itself
    return None if is_missing or not str(cell).strip() else str(cell)


def in_order(part: str, rows: Sequence[tuple[Row, Any]], column: str | None) -> list[Row]:
    """The rows of train from the earliest to the latest, where a column says it; others keep their order.

    Raises:
        DataError: A time that is missing or no time.
    """
    if column is None or part != "train":
        return [row for row, _ in rows]
    times = [time for _, time in rows]
    missing = [index for index, time in enumerate(times) if as_string(time, column) is None]
    if missing:
        raise DataError(f"Row {missing[0] + 1} has no time in column {column}; fill it in or drop the row.")
    try:
        keys = _comparable(times)
        order = sorted(range(len(rows)), key=lambda i: keys[i])
    except (TypeError, ValueError) as error:
        raise DataError(f"Column {column} holds a time that cannot be read: {error}. Repair it.") from error
    return [rows[i][0] for i in order]


def _comparable(times: Sequence[Any]) -> Sequence[Any]:
    """Datetimes and numbers as they are; text as numbers, as ISO 8601, else as pandas infers of the first."""
    if not any(isinstance(time, str) for time in times):
        return times
    texts = [str(time).strip() for time in times]
    if is_numeric(texts):
        return [float(text) for text in texts]
    # Without an offset a time counts as UTC, so that times with and without one compare.
    try:
        return list(pd.to_datetime(pd.Series(texts), format="ISO8601", utc=True))
    except ValueError:
        return list(pd.to_datetime(pd.Series(texts), utc=True))
