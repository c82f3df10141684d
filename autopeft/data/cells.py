"""Cells of a table as texts, labels and lists, alike however a file writes them."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence
from typing import Any

from autopeft.errors import DataError
from autopeft.types import shortened

# A decimal number such as -1.5e3; neither nan nor thousands with a comma.
NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?")

# Lists as numpy prints them, without commas: of scalars (Python would read ['a' 'b'] as ['ab']), of records.
_ITEM = r"""(?:'[^']*'|"[^"]*"|[-+]?[\d.]+(?:e[-+]?\d+)?|nan|None|True|False|\.\.\.)"""
_ITEMS_WITHOUT_COMMAS = re.compile(rf"\[[\[\s]*{_ITEM}(?:\s+{_ITEM})+[\]\s]*\]")
_RECORDS_WITHOUT_COMMAS = re.compile(r"\[\s*\{(?:(?!\}\s+\{).)*\}\s+\{.*\]", re.DOTALL)


def is_numeric(cells: Sequence[str | None]) -> bool:
    """Whether every cell that is neither missing nor empty is a number."""
    return all(NUMBER.fullmatch(cell.strip()) for cell in cells if cell)


def is_missing(cell: Any) -> bool:
    """Whether a cell is None or NaN."""
    return cell is None or cell != cell  # NaN alone differs from itself


def as_string(cell: Any, column: str) -> str | None:
    """Read a cell as text; None if it is missing or blank. Raises DataError for a list or a record."""
    if isinstance(cell, list | dict):
        raise DataError(
            f"Column {column} holds {shortened(str(cell), 60)}; allowed is one text or label per row."
        )
    text = cell if isinstance(cell, str) else "" if is_missing(cell) else str(cell)
    return None if not text or text.isspace() else text


def as_label(cell: Any, column: str) -> str | None:
    """Read a label as text; "1.0" becomes "1", since one missing cell turns integers into floats.

    "1.00" stays: two digits after the point are those of a price or a measured number.
    """
    text = as_string(cell, column)
    label = text and text.strip()
    return re.sub(r"^(-?\d+)\.0$", r"\1", label) if label and label.endswith(".0") else label


def as_group(cell: Any, column: str) -> str | None:
    """Read a group as text; "1.0" and "1.00" become "1", since another file may write the group so."""
    text = as_string(cell, column)
    return text and re.sub(r"^(-?\d+)\.0+$", r"\1", text.strip())


def restore_cells(cells: Sequence[Any], column: str, *, reads_lists: bool = True) -> Sequence[Any]:
    """Undo what a file format did to the cells of a column.

    1. Bytes become text.
    2. Floats become integers if all of them are whole and a cell is missing: pandas writes such columns so.
    3. With `reads_lists`, texts become lists if all of them are lists written as text, as in a CSV file.

    Raises:
        DataError: Bytes are no UTF-8, or a list is written as numpy does.
    """
    cells = [_decoded(cell, column) for cell in cells]
    if all(is_missing(cell) or (isinstance(cell, float) and cell.is_integer()) for cell in cells) and any(
        map(is_missing, cells)
    ):
        return [None if is_missing(cell) else int(cell) for cell in cells]
    return _parse_lists(cells, column) if reads_lists else cells


def _decoded(cell: Any, column: str) -> Any:
    if isinstance(cell, list):
        return [_decoded(item, column) for item in cell]
    if not isinstance(cell, bytes):
        return cell
    try:
        return cell.decode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"Column {column} holds bytes that are no UTF-8 text ({shortened(repr(cell), 40)}); write texts "
            "there, or name another column."
        ) from error


def _parse_lists(cells: Sequence[Any], column: str) -> Sequence[Any]:
    """Parse the texts of a column if each of them is empty or a list; else return the column unchanged."""
    may_be_lists = (
        is_missing(cell) or (isinstance(cell, str) and (not cell or cell.strip()[:1] == "["))
        for cell in cells
    )
    if not all(may_be_lists):
        return cells
    lists: dict[str, list[Any]] = {}
    for text in dict.fromkeys(cell for cell in cells if cell):
        items = _parse_list(text.strip(), column)
        if items is None:
            return cells
        lists[text] = items
    return [lists.get(cell, cell) if isinstance(cell, str) else cell for cell in cells]


def _parse_list(text: str, column: str) -> list[Any] | None:
    """Parse a list in JSON or Python; None for other text, DataError for numpy's lists."""
    try:
        items = json.loads(text)  # before Python's parser, which takes a hundred times as long
    except (ValueError, RecursionError):
        is_of_numpy = _ITEMS_WITHOUT_COMMAS.fullmatch(text)
        try:
            items = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            items = None
            is_of_numpy = is_of_numpy or _RECORDS_WITHOUT_COMMAS.fullmatch(text)
        if is_of_numpy:
            raise DataError(
                f"Column {column} holds a list without commas, as numpy writes it ({shortened(text, 60)}); "
                "write whole lists, best as JSON."
            ) from None
    return items if isinstance(items, list) else None
