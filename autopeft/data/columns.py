"""Which columns of a table hold inputs and label, and the rows of these columns."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import pandas as pd
import pyarrow as pa

from autopeft.data.cells import as_group, as_label, as_string, is_numeric, restore_cells
from autopeft.data.dataset import USUAL_NAMES, Parts, Row, UncutRows
from autopeft.data.sources import Source
from autopeft.errors import DataError, UnknownNameError, reason_of
from autopeft.plugins import LabelSpace
from autopeft.types import DataSpec, listed, shortened

_FIRST_ROWS = 1000  # by which the content of a column is judged; chosen by hand
_NO_LABEL = "-100"  # of a row without a label, in a column with declared names; losses ignore it
HIDDEN = "-1"  # what many test splits on the hub have in place of their labels
# Cells of a column that is one label.
HAS_LABEL = {"0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}
_MOST_NAMES = 25  # of columns that an error lists; chosen by hand
_LONGEST_NAME = 60  # characters of a column's name in such a list; chosen by hand
_MONTH = re.compile(r"\b(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)", re.IGNORECASE)
_WORDS = 3  # a column holds texts if its cells have so many words on average; chosen by hand


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns of the inputs, the label, the group (kept in one split) and the time (keeps the order)."""

    inputs: tuple[str, ...]
    label: str
    group: str | None = None
    time: str | None = None
    other_labels: tuple[str, ...] = ()  # columns that have a usual name of labels too

    def uncut(
        self,
        source: Source,
        parts: Parts,
        label_space: LabelSpace,
        *,
        left_out: Mapping[str, int],
        notes: list[str],
    ) -> UncutRows:
        """Gather the rows that were read from these columns; train is sorted by time."""
        return UncutRows(
            name=source.name,
            parts={part: _sorted_by_time(part, rows, self.time) for part, rows in parts.items()},
            label_space=label_space,
            input_columns=self.inputs,
            label_column=self.label,
            in_order=self.time is not None,
            left_out=left_out,
            notes=(*source.notes, *notes),
        )


def check_named(spec: DataSpec, names: Sequence[str]) -> None:
    """Refuse a column that the spec names and the train table lacks; raises UnknownNameError."""
    for column in (*spec.text_columns, spec.label_column, spec.group_column, spec.time_column):
        if column is not None and column not in names:
            is_list = set(column.replace(" ", "").split(",")) <= set(names)
            raise UnknownNameError("column", column, names, hint="Repeat the flag for each column." * is_list)


def first_usual_column(names: Sequence[str], usual_names: str) -> str | None:
    """Find the column with the first of some usual names, apart from case and blanks; None without."""
    by_lower = {name.strip().lower(): name for name in names}
    return next((by_lower[name] for name in usual_names.split() if name in by_lower), None)


def join_labels(table: Any, label_column: str | None) -> Any:
    """Add a column of lists if `label_column` names several columns of 0 and 1, as in `toxic,obscene`.

    Raises DataError for a cell that is neither 0 or 1 nor true or false.
    """
    names = [name.strip() for name in (label_column or "").split(",")]
    if label_column in table.column_names or not set(names) <= set(table.column_names):
        return table
    labels: list[list[str]] = [[] for _ in range(len(table))]
    for name in names:
        for index, cell in enumerate(table[name][:]):
            code = str(cell).strip().casefold()
            if code not in HAS_LABEL:
                raise DataError(
                    f"Column {name} holds {shortened(repr(cell), 40)} in row {index + 1}; as one of the "
                    f"label columns {label_column} it may hold 0 or 1, or true or false."
                )
            labels[index] += [name] * HAS_LABEL[code]
    return table.add_column(label_column, labels)


def column_list(names: Sequence[str]) -> str:
    """Join column names for an error: the first 25, and how many more there are."""
    return listed([shortened(name, _LONGEST_NAME) for name in names], _MOST_NAMES)


def only_input(spec: DataSpec, names: Sequence[str], usual_names: str, *, content: str) -> str:
    """Choose the one input column: the spec's, else one with a usual name; messages say `content`."""
    check_named(spec, names)
    column = spec.text_columns[0] if spec.text_columns else first_usual_column(names, usual_names)
    if not column or len(spec.text_columns) > 1:
        seen = column_list(spec.text_columns or names)
        raise DataError(f"One column of {content} is needed, there is {seen}; name it with --text-column.")
    return column


def rows_of(part: str, table: Any, columns: Columns, *, kind: str | None = None) -> list[Row]:
    """Read the rows of a table as strings. A missing cell is None; test may lack the label column.

    A cell may hold a list of labels if `kind`, the target's, is None or `classes`.
    """
    inputs = [[as_string(cell, name) for cell in cells_of(part, table, name)] for name in columns.inputs]
    labels = _labels(part, table, columns.label, kind)
    groups, times = groups_and_times(part, table, columns)
    cells = enumerate(zip(*inputs, labels, groups, times, strict=True), start=1)
    return [Row(tuple(texts), label, group, time, n) for n, (*texts, label, group, time) in cells]


def groups_and_times(part: str, table: Any, columns: Columns) -> tuple[list[str | None], list[Any]]:
    """Read each row's group as a string, and the cell of its time; None for a column that is not there.

    Raises DataError if train lacks a column that the user named; other parts may lack it.
    """
    groups, times = (
        [None] * len(table) if name is None else cells_of(part, table, name, is_needed=part == "train")
        for name in (columns.group, columns.time)
    )
    if columns.group is not None:
        groups = [as_group(cell, columns.group) for cell in groups]
    return list(groups), list(times)


def cells_of(
    part: str, table: Any, name: str, *, is_needed: bool = True, reads_lists: bool = True
) -> Sequence[Any]:
    """Read the cells of a column; None for each row if the table lacks it.

    If `is_needed`, that is a DataError; so is a name that differs in case or blanks only.
    """
    names = table.column_names
    if name not in names and (is_needed or first_usual_column(names, name.strip().lower())):
        file = f"{USUAL_NAMES.get(part, part)} table"
        if table.info.dataset_name:
            file += f" ({table.info.dataset_name})"
        raise DataError(
            f"A {file} lacks column {name}; it has {column_list(names)}. Name the column alike in all."
        )
    cells = _raw_cells(part, table, name) if name in names else [None] * len(table)
    return restore_cells(cells, name, reads_lists=reads_lists)


def _raw_cells(part: str, table: Any, name: str) -> list[Any]:
    with _require_utf8(part, name):
        return list(table[name][:])  # at once: to decode a single row takes as long as a hundred cells


@contextlib.contextmanager
def _require_utf8(part: str, name: str) -> Iterator[None]:
    """Turn a decoding error into a DataError that names the column."""
    try:
        yield
    except UnicodeDecodeError as error:  # `datasets` reads JSON without a look at its encoding
        raise DataError(
            f"Column {name} of {part} is no UTF-8 text ({error}); convert the file to UTF-8."
        ) from error


def head_of(table: Any) -> pa.Table:
    """Take the first 1,000 rows of a train table as an Arrow table, which decodes only what is read."""
    return table.with_format("arrow")[:_FIRST_ROWS]


def cells_in(head: pa.Table, name: str) -> list[Any]:
    """Read a column of a `head_of` table, images and JSON undecoded."""
    with _require_utf8("train", name):
        cells: list[Any] = head.column(name).to_pylist()
        return cells


def first_cells(tables: Sequence[Any], name: str) -> list[Any]:
    """Read the first 1,000 cells of a column of the first train table, decoded."""
    return _raw_cells("train", tables[0].select(range(min(_FIRST_ROWS, len(tables[0])))), name)


def declared_names(table: Any, column: str) -> Sequence[str]:
    """Look up the label names that a dataset declares for a column of numbers or of their lists; else ()."""
    feature = table.features.get(column)
    return getattr(getattr(feature, "feature", feature), "names", None) or ()


def notes_on_unread_texts(table: Any, read_columns: Collection[str | None]) -> list[str]:
    """Write a note that names the columns with texts of several words that are not read; [] without."""
    head = head_of(table)
    unread = [name for name in head.column_names if name not in read_columns and holds_texts(head, name)]
    if not unread:
        return []
    what = f"Columns {listed(unread)} hold" if len(unread) > 1 else f"Column {unread[0]} holds"
    return [f"{what} texts too, which are not read: name all columns of the input with --text-column."]


def holds_texts(head: pa.Table, name: str) -> bool:
    """Whether a column of a `head_of` table holds strings of several words on average."""
    if not holds_strings(head, name):
        return False
    cells = [cell for cell in cells_in(head, name) if cell and cell.strip()]
    return bool(cells) and fmean(len(cell.split()) for cell in cells) >= _WORDS


def holds_strings(head: pa.Table, name: str) -> bool:
    """Whether Arrow's type of a column is a string."""
    kind = head.schema.field(name).type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _labels(part: str, table: Any, column: str, kind: str | None) -> list[Any]:
    """Read the label of each row: text, a tuple of texts for several, None without."""
    declared = declared_names(table, column)

    def named(cell: Any, index: int) -> str | None:
        code = as_label(cell, column)
        if not declared or code is None:
            return code
        is_none = code in (_NO_LABEL, HIDDEN)
        return None if is_none else name_of(code, declared, f"row {index + 1} of {part}", column)

    labels: list[Any] = []
    for index, cell in enumerate(cells_of(part, table, column, is_needed=part != "test")):
        if isinstance(cell, list) and kind in (None, "classes"):
            if all(item in (0, 1) for item in cell) and len(set(cell)) < len(cell):
                raise DataError(
                    f"Row {index + 1} of {part} has {shortened(str(cell), 40)} in column {column}, a 0 or 1 "
                    "for each label; write the names of the labels that the row has instead."
                )
            labels.append(tuple(dict.fromkeys(filter(None, (named(item, index) for item in cell)))))
        elif kind == "classes" and cell is not None:
            labels.append(tuple(dict.fromkeys(filter(None, map(str.strip, re.split("[,;|]", str(cell)))))))
        else:
            labels.append(named(cell, index))
    return labels


def name_of(code: str, names: Sequence[str], where: str, column: str) -> str:
    """Look up the declared label name of a number; raises DataError if it is out of range."""
    if code.isdigit() and int(code) < len(names):
        return names[int(code)]
    raise DataError(
        f"The label {code} in {where} is none of the {len(names)} that column {column} declares "
        f"({', '.join(names[:3])}{', …' if len(names) > 3 else ''}); correct it to 0 to {len(names) - 1}."
    )


def _sorted_by_time(part: str, rows: list[Row], column: str | None) -> list[Row]:
    """Sort the rows of train by time, others stay; raises DataError for a missing or unreadable time."""
    if column is None or part != "train":
        return rows
    times = [row.time for row in rows]
    missing = [row.number for row in rows if as_string(row.time, column) is None]
    if missing:
        raise DataError(
            f"Row {missing[0]} of {part} has no time in column {column}; fill it in or drop the row."
        )
    keys: Sequence[Any] = times
    try:
        if any(isinstance(time, str) for time in times):
            texts = [str(time).strip() for time in times]
            keys = [*map(float, texts)] if is_numeric(texts) else _read_times(texts)
        order = sorted(range(len(rows)), key=lambda i: keys[i])
    except (TypeError, ValueError, UserWarning) as error:
        raise DataError(
            f"Column {column} holds a time that cannot be read ({reason_of(error)}); write YYYY-MM-DD or "
            "YYYY-MM-DD HH:MM:SS in every row."
        ) from error
    return [rows[i] for i in order]


def _read_times(texts: Sequence[str]) -> list[Any]:
    """Parse times in ISO 8601 or with names of months; a time without an offset counts as UTC.

    Raises pandas's ValueError or UserWarning for any other text: 03/04/2024 has several readings.
    """
    has_months = _MONTH.search(texts[0])  # then pandas finds the format in the first text
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # pandas warns if it finds no format, or drops a time zone
        return list(pd.to_datetime(pd.Series(texts), utc=True, format=None if has_months else "ISO8601"))
