"""Which columns of a table hold inputs and label, and the rows of these columns."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import pandas as pd
import pyarrow as pa

from autopeft.data.cells import as_label, as_string, is_numeric, refuse_written_lists
from autopeft.data.dataset import USUAL_NAMES, Row, SplitRows, UncutRows
from autopeft.data.sources import Source
from autopeft.errors import DataError, UnknownNameError, reason_of
from autopeft.plugins import LabelSpace
from autopeft.types import DataSpec, listed, shortened

_FIRST_ROWS = 1000  # by which the content of a column is judged; heuristic
HIDDEN = "-1"  # what many test splits on the hub have instead of their labels
_NO_LABEL = ("-100", HIDDEN)  # of a row without a label, in a column with declared names
_HAS_LABEL = {"0": False, "false": False, "1": True, "true": True}  # cells of a column that is one label
_MOST_NAMES = 25  # of columns that an error lists; heuristic
_WORDS = 3  # a column holds texts if its cells have so many words on average; heuristic


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns of the inputs, the label, the group (kept in one split) and the time (keeps the order)."""

    inputs: tuple[str, ...]
    label: str
    group: str | None = None
    time: str | None = None

    def uncut(
        self,
        source: Source,
        splits: SplitRows,
        label_space: LabelSpace,
        *,
        left_out: Mapping[str, int],
        notes: list[str],
    ) -> UncutRows:
        """Collect the rows that were read from these columns; train is sorted by time."""
        return UncutRows(
            name=source.name,
            splits={**splits, "train": _sorted_by_time(splits["train"], self.time)},
            label_space=label_space,
            input_columns=self.inputs,
            label_column=self.label,
            in_order=self.time is not None,
            left_out=left_out,
            notes=(*source.notes, *notes),
        )


def check_named(spec: DataSpec, names: Sequence[str]) -> None:
    """Raise UnknownNameError for a column that the spec names and the train table does not have."""
    for column in (*spec.text_columns, spec.label_column, spec.group_column, spec.time_column):
        if column is not None and column not in names:
            is_list = set(column.replace(" ", "").split(",")) <= set(names)
            raise UnknownNameError("column", column, names, hint="Repeat the flag for each column." * is_list)


def first_usual_column(names: Sequence[str], usual_names: str) -> str | None:
    """Return the column with the first of some usual names, apart from case and blanks, or None."""
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
            code = str(as_label(cell, name)).casefold()
            if code not in _HAS_LABEL:
                raise DataError(
                    f"Column {name} holds {shortened(repr(cell), 40)} in row {index + 1}; as one of the "
                    f"label columns {label_column} it may hold 0 or 1, or true or false."
                )
            if _HAS_LABEL[code]:
                labels[index].append(name)
    return table.add_column(label_column, labels)


def column_list(names: Sequence[str]) -> str:
    """Join column names for an error: the first 25, and the number of the others."""
    return listed(names, _MOST_NAMES)


def only_input(spec: DataSpec, names: Sequence[str], usual_names: str, *, content: str) -> str:
    """Choose the input column: the spec's, else one with a usual name; `content` describes it in errors."""
    check_named(spec, names)
    column = spec.text_columns[0] if spec.text_columns else first_usual_column(names, usual_names)
    if not column or len(spec.text_columns) > 1:
        seen = column_list(spec.text_columns or names)
        raise DataError(f"One column of {content} is needed, there is {seen}; name it with --text-column.")
    return column


def rows_of(split: str, table: Any, columns: Columns, *, kind: str | None = None) -> list[Row]:
    """Read the rows of a table as strings. A missing cell is None; test may have no label column.

    A cell may hold a list of labels if `kind`, the label space's, is None or `classes`.
    """
    inputs = [[as_string(cell, name) for cell in cells_of(split, table, name)] for name in columns.inputs]
    labels = _labels(split, table, columns.label, kind)
    groups, times = groups_and_times(split, table, columns)
    cells = enumerate(zip(*inputs, labels, groups, times, strict=True), start=1)
    return [Row(tuple(texts), label, group, time, n) for n, (*texts, label, group, time) in cells]


def groups_and_times(split: str, table: Any, columns: Columns) -> tuple[list[str | None], list[Any]]:
    """Read each row's group as a string, and the cell of its time; None for a column that is not there.

    Raises DataError if train has no column of a given name; other splits may have none.
    """
    is_needed = split == "train"
    groups: list[str | None] = [None] * len(table)
    times: list[Any] = [None] * len(table)
    if columns.group is not None:
        cells = cells_of(split, table, columns.group, is_needed=is_needed)
        groups = [as_label(cell, columns.group) for cell in cells]
    if columns.time is not None:
        times = cells_of(split, table, columns.time, is_needed=is_needed)
    return groups, times


def cells_of(split: str, table: Any, name: str, *, is_needed: bool = True) -> list[Any]:
    """Read the cells of a column; without it, None for each row, or a DataError if it is needed."""
    if name in table.column_names:
        return list(table[name][:])  # at once: to decode a single row takes as long as a hundred cells
    if is_needed:
        file = f"{USUAL_NAMES.get(split, split)} table"
        if table.info.dataset_name:
            file += f" ({table.info.dataset_name})"
        raise DataError(
            f"The {file} has no column {name}, only {column_list(table.column_names)}. Name the column alike "
            "in all."
        )
    return [None] * len(table)


def head_of(table: Any) -> pa.Table:
    """Return the first 1,000 rows of a table as an Arrow table, which decodes only what is read."""
    return table.with_format("arrow")[:_FIRST_ROWS]


def cells_in(head: pa.Table, name: str) -> list[Any]:
    """Read a column of a `head_of` table, images and JSON undecoded."""
    cells: list[Any] = head.column(name).to_pylist()
    return cells


def declared_names(table: Any, column: str) -> Sequence[str]:
    """Return the label names that a dataset declares for a column of numbers or of lists of them, or ()."""
    feature = table.features.get(column)
    return getattr(getattr(feature, "feature", feature), "names", None) or ()


def notes_on_unread_texts(table: Any, read_columns: Collection[str | None]) -> list[str]:
    """Describe the columns with texts of several words that are not read, in a note or none."""
    head = head_of(table)
    unread = [name for name in head.column_names if name not in read_columns and holds_texts(head, name)]
    if not unread:
        return []
    what = f"Columns {listed(unread)} hold" if len(unread) > 1 else f"Column {unread[0]} holds"
    return [f"{what} texts that are not read; name all columns of the input with --text-column."]


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


def _labels(split: str, table: Any, column: str, kind: str | None) -> list[Any]:
    """Read the label of each row: text, a tuple of texts for several, None without."""
    declared = declared_names(table, column)
    cells = cells_of(split, table, column, is_needed=split != "test")
    refuse_written_lists(cells, column)
    labels: list[Any] = []
    for index, cell in enumerate(cells):
        where = f"row {index + 1} of {split}"
        if isinstance(cell, list) and kind in (None, "classes"):
            if all(item in (0, 1) for item in cell) and len(set(cell)) < len(cell):
                raise DataError(
                    f"{where.capitalize()} has {shortened(str(cell), 40)} in column {column}, a 0 or 1 for "
                    "each label; write the names of the labels that the row has instead."
                )
            names = [_label(item, declared, where, column) for item in cell]
            labels.append(tuple(dict.fromkeys(filter(None, names))))
        elif kind == "classes" and cell is not None:
            labels.append(tuple(dict.fromkeys(filter(None, map(str.strip, re.split("[,;|]", str(cell)))))))
        else:
            labels.append(_label(cell, declared, where, column))
    return labels


def _label(cell: Any, declared: Sequence[str], where: str, column: str) -> str | None:
    label = as_label(cell, column)
    is_missing = label is None or (declared and label in _NO_LABEL)
    return None if is_missing else name_of(str(label), declared, where, column)


def name_of(code: str, names: Sequence[str], where: str, column: str) -> str:
    """Return the declared name of a label's number, or the label itself if none are declared.

    Raises DataError for a number that is out of range.
    """
    if not names:
        return code
    if code.isdigit() and int(code) < len(names):
        return names[int(code)]
    raise DataError(
        f"The label {code} in {where} is not one of the {len(names)} that column {column} declares "
        f"({', '.join(names[:3])}{', …' if len(names) > 3 else ''}); correct it to 0 to {len(names) - 1}."
    )


def _sorted_by_time(rows: list[Row], column: str | None) -> list[Row]:
    """Sort the rows of train by time; raises DataError for a missing or unreadable time."""
    if column is None:
        return rows
    times = [row.time for row in rows]
    missing = [row.number for row in rows if as_string(row.time, column) is None]
    if missing:
        raise DataError(
            f"Row {missing[0]} of train has no time in column {column}; fill it in or drop the row."
        )
    keys: Sequence[Any] = times
    try:
        if any(isinstance(time, str) for time in times):
            texts = [str(time).strip() for time in times]
            # A time without an offset counts as UTC.
            keys = (
                [float(text) for text in texts]
                if is_numeric(texts)
                else list(pd.to_datetime(pd.Series(texts), utc=True, format="ISO8601"))
            )
        order = sorted(range(len(rows)), key=lambda i: keys[i])
    except (TypeError, ValueError) as error:
        raise DataError(
            f"Column {column} holds a time that cannot be read ({reason_of(error)}); write YYYY-MM-DD or "
            "YYYY-MM-DD HH:MM:SS in every row."
        ) from error
    return [rows[i] for i in order]
