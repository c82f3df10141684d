"""The forms that all commands print: lines of one width, tables, and JSON."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from textwrap import wrap
from typing import Any

_GAP = 2  # columns between two columns of a table


def columns(most: int = 80) -> int:
    """Return the width of the terminal, at most `most`; 80 in a file or a pipe."""
    return min(most, shutil.get_terminal_size((80, 24)).columns)


def json_text(content: Any) -> str:
    """Write one JSON object; infinite numbers and NaN, which JSON does not have, raise ValueError."""
    return json.dumps(content, indent=2, allow_nan=False)


def lines_of(paragraphs: Iterable[str]) -> list[str]:
    """Break paragraphs into lines of at most 80 columns; a longer word, such as a path, is not broken."""
    lines: list[str] = []
    for paragraph in paragraphs:
        text = paragraph.replace(" %", "\N{NO-BREAK SPACE}%")
        lines += wrap(text, columns(), break_long_words=False, break_on_hyphens=False) or [""]
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines]


def blocks_text(*blocks: Sequence[str]) -> str:
    """Join blocks of lines, with an empty line between them."""
    return "\n\n".join("\n".join(block) for block in blocks if block)


def table(
    headers: Sequence[str], rows: Iterable[Sequence[str]], *, n_texts: int = 1, width: int | None = None
) -> list[str]:
    """Lay out a table in lines.

    The first `n_texts` columns hold words and are aligned left, the others right. `width` is that of the
    table, at most; None is the whole terminal. Wider cells are broken.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    every_row = [*([headers] if headers else []), *rows]
    grid = Table.grid(padding=(0, _GAP))
    for place in range(len(every_row[0])):
        grid.add_column(justify="left" if place < n_texts else "right", overflow="fold")
    for row in every_row:
        grid.add_row(*map(Text, row))
    console = Console(width=width or columns(most=10_000), color_system=None)
    with console.capture() as captured:
        console.print(grid)
    return [line.rstrip() for line in captured.get().splitlines()]
