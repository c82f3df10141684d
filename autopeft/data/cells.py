"""Cells of a table as texts and labels, alike in every file format."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from autopeft.errors import DataError
from autopeft.types import shortened

# A decimal number such as -1.5e3; neither nan nor thousands with a comma.
NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?")


def is_missing(cell: Any) -> bool:
    """Whether a cell is None or NaN."""
    return cell is None or cell != cell  # NaN alone differs from itself


def as_string(cell: Any, column: str) -> str | None:
    """Read a cell as text; None if it is missing or blank. Raises DataError for a list, a record or bytes."""
    if isinstance(cell, list | dict | bytes):
        raise DataError(
            f"Column {column} holds {shortened(str(cell), 60)}; allowed is one text or label per row."
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
