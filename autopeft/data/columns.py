"""Which columns of a table hold inputs and label, and their cells as texts, labels and rows."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import pyarrow as pa

from autopeft.data.dataset import USUAL_NAMES, Row
from autopeft.errors import DataError, UnknownNameError
from autopeft.types import DataSpec, listed, shortened

# A decimal number such as -1.5e3; neither nan nor thousands with a comma.
NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?")
LABEL_NAMES = "label labels target class category intent sentiment emotion topic rating stars score"
_FIRST_ROWS = 1000  # by which the content of a column is judged; heuristic
HIDDEN = "-1"  # what many test splits on the hub have instead of their labels
_MOST_NAMES = 25  # of columns that an error lists; heuristic
# What columns of some types of `datasets` hold, for errors.
_KINDS = {
    "dict": "objects",
    "Json": "JSON",
    **dict.fromkeys(("List", "LargeList", "Sequence", "list"), "lists"),
}
_WORDS = 3  # a column holds texts if its cells have so many words on average; heuristic


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns of the inputs, of the label, and of the group, whose rows stay in one split."""

    inputs: tuple[str, ...]
    label: str
    group: str | None = None


def is_missing(cell: Any) -> bool:
    """Whether a cell is None or NaN."""
    return cell is None or cell != cell  # NaN alone differs from itself


def as_string(cell: Any, column: str) -> str | None:
    """Read a cell as text; None if it is missing or blank. Raises DataError for a list, record or bytes."""
    if isinstance(cell, list | dict | bytes):
        kind = {dict: "objects", list: "lists"}.get(type(cell), "bytes")
        raise DataError(
            f"Column {column} holds {kind} such as {shortened(str(cell), 60)}; allowed is one text or label "
            "per row. Write what is to be read as a column of its own, or name another column."
        )
    text = cell if isinstance(cell, str) else "" if is_missing(cell) else str(cell)
    return None if not text or text.isspace() else text


def as_label(cell: Any, column: str) -> str | None:
    """Read a label or a group as text; "1.0" becomes "1", since a missing cell turns integers into floats."""
    text = as_string(cell, column)
    return text and re.sub(r"^(-?\d+)\.0$", r"\1", text.strip())


def refuse_written_lists(cells: Sequence[Any], column: str) -> None:
    """Raise DataError if all cells are lists written as texts, as in a CSV file made from lists."""
    texts = [cell.strip() for cell in cells if isinstance(cell, str) and cell.strip()]
    if texts and all(text[0] == "[" and text[-1] == "]" for text in texts):
        raise DataError(
            f"Column {column} holds lists written as text ({shortened(texts[0], 40)}). Convert them with "
            f"pandas: frame[{column!r}] = frame[{column!r}].map(ast.literal_eval); "
            "frame.to_parquet('rows.parquet')."
        )


def check_named(spec: DataSpec, names: Sequence[str]) -> None:
    """Raise UnknownNameError for a column that the spec names and the train table does not have."""
    for column in (*spec.text_columns, spec.label_column, spec.group_column):
        if column is not None and column not in names:
            raise UnknownNameError("column", column, names)


def first_usual_column(names: Sequence[str], usual_names: str) -> str | None:
    """Return the column with the first of some usual names, apart from case and blanks, or None."""
    by_lower = {name.strip().lower(): name for name in names}
    return next((by_lower[name] for name in usual_names.split() if name in by_lower), None)


def column_list(table: Any) -> str:
    """Join a table's columns for an error: the first 25, with what they hold if it is not one value a row."""
    kinds = {name: _KINDS.get(type(feature).__name__) for name, feature in table.features.items()}
    return listed([f"{name} ({kind})" if kind else name for name, kind in kinds.items()], _MOST_NAMES)


def only_input(spec: DataSpec, table: Any, usual_names: str, *, content: str) -> str:
    """Choose the input column: the spec's, else one with a usual name; `content` describes it in errors."""
    check_named(spec, table.column_names)
    column = next(iter(spec.text_columns), None) or first_usual_column(table.column_names, usual_names)
    if not column or len(spec.text_columns) > 1:
        seen = ", ".join(spec.text_columns) or column_list(table)
        raise DataError(f"One column of {content} is needed, there is {seen}; name it with --text-column.")
    return column


def label_column(spec: DataSpec, table: Any, *, inputs: Sequence[str], usual_names: str = LABEL_NAMES) -> str:
    """Choose the label column: the spec's, else the one with a usual name; DataError without."""
    candidates = [name for name in table.column_names if name not in inputs]
    label = spec.label_column or first_usual_column(candidates, usual_names)
    if not label:
        decimals = [name for name in candidates if _holds_decimals(head_of(table), name)]
        hint = f"; to predict the numbers in {decimals[0]}, name it there" if len(decimals) == 1 else ""
        raise DataError(
            f"There is no label column among {column_list(table)}; name it with --label-column, or set "
            "--task: text-generation for chats and for prompts with completions, token-classification for "
            f"lists of tokens{hint}."
        )
    return label


def rows_of(
    split: str,
    table: Any,
    columns: Columns,
    *,
    read_label: Callable[[Any, str, Sequence[str], str], Any],
    read_input: Callable[[Any, str], Any] = as_string,
) -> list[Row]:
    """Read the rows of a table; a test table without the label column has labels None.

    `read_label` also gets the names that the column declares, and the place of the row for errors.
    """
    inputs = [[read_input(cell, name) for cell in cells_of(split, table, name)] for name in columns.inputs]
    labels: list[Any] = [""] * len(table)
    if columns.label:
        declared = declared_names(table, columns.label)
        cells = cells_of(split, table, columns.label, is_needed=split != "test")
        labels = [
            read_label(cell, columns.label, declared, f"row {n} of {split}")
            for n, cell in enumerate(cells, start=1)
        ]
    rows = enumerate(zip(*inputs, labels, groups_in(split, table, columns.group), strict=True), start=1)
    return [Row(tuple(texts), label, group, n) for n, (*texts, label, group) in rows]


def groups_in(split: str, table: Any, column: str | None) -> list[str | None]:
    """Read the group of each row; None without a column, which only train must have."""
    if column is None:
        return [None] * len(table)
    cells = cells_of(split, table, column, is_needed=split == "train")
    return [as_label(cell, column) for cell in cells]


def cells_of(split: str, table: Any, name: str, *, is_needed: bool = True) -> list[Any]:
    """Read the cells of a column; without it, None for each row, or a DataError if it is needed."""
    if name in table.column_names:
        return list(table[name][:])  # at once: to decode a single row takes as long as a hundred cells
    if is_needed:
        file = f" ({table.info.dataset_name})" if table.info.dataset_name else ""
        raise DataError(
            f"The {USUAL_NAMES.get(split, split)} table{file} has no column {name}, only "
            f"{column_list(table)}. Name the column alike in all."
        )
    return [None] * len(table)


def head_of(table: Any) -> pa.Table:
    """Return the first 1,000 rows of a table as an Arrow table, which decodes only what is read."""
    return table.with_format("arrow")[:_FIRST_ROWS]


def declared_names(table: Any, column: str) -> tuple[str, ...]:
    """Return the label names that a dataset declares for a column of numbers or of lists of them, or ()."""
    feature = table.features.get(column)
    return tuple(getattr(getattr(feature, "feature", feature), "names", None) or ())


def holds_texts(head: pa.Table, name: str) -> bool:
    """Whether a column of a `head_of` table holds strings of several words on average."""
    if not holds_strings(head, name):
        return False
    cells = [cell for cell in head.column(name).to_pylist() if cell and cell.strip()]
    return bool(cells) and fmean(len(cell.split()) for cell in cells) >= _WORDS


def holds_strings(head: pa.Table, name: str) -> bool:
    """Whether Arrow's type of a column is a string."""
    kind = head.schema.field(name).type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _holds_decimals(head: pa.Table, name: str) -> bool:
    """Whether a column of a `head_of` table holds numbers, some with a fraction, also written as texts."""
    cells = {str(cell).strip() for cell in head.column(name).to_pylist() if not is_missing(cell)} - {""}
    return all(map(NUMBER.fullmatch, cells)) and any(not float(cell).is_integer() for cell in cells)


def name_of(code: str, names: Sequence[str], where: str, column: str) -> str:
    """Return the declared name of a label's number, or the label itself if none are declared."""
    if not names:
        return code
    if code.isdigit() and int(code) < len(names):
        return names[int(code)]
    raise DataError(
        f"The label {code} in {where} is not one of the {len(names)} that column {column} declares; correct "
        f"it to 0 to {len(names) - 1}."
    )
