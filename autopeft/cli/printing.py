"""What all commands print alike: lines of one width, tables, sizes, and JSON."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from textwrap import wrap
from typing import Any

COLUMNS = 80  # the width of a usual terminal
_GAP = 2  # columns between two columns of a table
_UNITS = ("B", "kB", "MB", "GB", "TB")


def columns() -> int:
    """Give the width of lines of text: the terminal's width, at most 80."""
    return min(COLUMNS, room())


def room() -> int:
    """Give the width of the terminal; 80 in a file or a pipe."""
    return shutil.get_terminal_size((COLUMNS, 24)).columns


def print_json(content: Any) -> None:
    """Print one JSON object; infinite numbers and NaN, which JSON lacks, raise ValueError."""
    print(json.dumps(content, indent=2, allow_nan=False))


def lines_of(paragraphs: Iterable[str]) -> list[str]:
    """Break paragraphs into lines of at most 80 columns; a longer word, such as a path, is not broken."""
    lines: list[str] = []
    for paragraph in paragraphs:
        together = paragraph.replace(" %", "\N{NO-BREAK SPACE}%")
        broken = wrap(together, columns(), break_long_words=False, break_on_hyphens=False)
        lines += [line.replace("\N{NO-BREAK SPACE}", " ") for line in broken or [""]]
    return lines


def table(
    headers: Sequence[str], rows: Iterable[Sequence[str]], *, n_texts: int = 1, width: int | None = None
) -> tuple[list[str], tuple[str, ...]]:
    """Lay out a table that fits the terminal: narrow columns of words, then drop the last columns of numbers.

    Args:
        headers: One for each column; none for a table without headings.
        rows: The cells of each row; cells of words may hold line breaks.
        n_texts: How many of the first columns hold words, to the left. Numbers stand to the right, and are
            never broken.
        width: The width of the table, at most; None for the whole terminal.

    Returns:
        The text of each row, headings first, which may have several lines; and the headings of the columns
        that were dropped.
    """
    every_row = [*([headers] if headers else []), *rows]
    width = width or room()
    by_column = [
        [line for cell in cells for line in cell.split("\n")] for cells in zip(*every_row, strict=True)
    ]
    widths = [max(map(len, lines)) for lines in by_column]
    words = [max(len(word) for line in lines for word in (line.split() or [""])) for lines in by_column]
    least = [*words[:n_texts], *widths[n_texts:]]
    n_shown = len(widths)
    while n_shown > n_texts and sum(least[:n_shown]) + _GAP * (n_shown - 1) > width:
        n_shown -= 1
    widths = _narrowed(widths[:n_shown], least[:n_shown], width - _GAP * (n_shown - 1))
    texts = [_row_text(row[:n_shown], widths, n_texts=n_texts) for row in every_row]
    return texts, tuple(headers[n_shown:])


def _row_text(row: Sequence[str], widths: Sequence[int], *, n_texts: int) -> str:
    """Write the lines of one row; a cell that is wider than its column is broken between words."""
    broken = [
        [part for line in cell.split("\n") for part in wrap(line, width, break_on_hyphens=False) or [""]]
        for cell, width in zip(row, widths, strict=True)
    ]
    text = ""
    for parts in zip_longest(*broken, fillvalue=""):
        aligned = [
            part.ljust(width) if place < n_texts else part.rjust(width)
            for place, (part, width) in enumerate(zip(parts, widths, strict=True))
        ]
        text += (" " * _GAP).join(aligned).rstrip() + "\n"
    return text.removesuffix("\n")


def _narrowed(widths: Sequence[int], least: Sequence[int], width: int) -> list[int]:
    """Narrow columns until they fit into a width: always the one that is widest beyond its longest word.

    `least` are the lengths of the longest words. If no column is wider than that, the widest is narrowed.

    Example:
        >>> _narrowed([7, 9], [3, 5], 11)
        [4, 7]
    """
    widths = list(widths)
    while sum(widths) > max(width, len(widths)):
        slack = [whole - word for whole, word in zip(widths, least, strict=True)]
        place = slack.index(max(slack)) if max(slack) > 0 else widths.index(max(widths))
        widths[place] -= 1
    return widths


def size(n_bytes: int) -> str:
    """Write bytes in the decimal unit that leaves one to three digits before the point.

    Example:
        >>> size(36_715_216), size(900)
        ('36.7 MB', '900 B')
    """
    value, unit = float(n_bytes), 0
    while value >= 999.95 and unit < len(_UNITS) - 1:  # 999.95 would be printed as 1000.0
        value, unit = value / 1000, unit + 1
    return f"{value:.1f} {_UNITS[unit]}" if unit else f"{n_bytes} B"
