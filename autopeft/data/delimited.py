"""How a CSV or TSV file is written: its separator, whether quotes enclose cells, a row that does not fit."""

from __future__ import annotations

import contextlib
import csv
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from autopeft.records import shortened

_SEPARATORS = (",", ";", "\t", "|")  # the usual ones first
# A quote that opens a cell and, where a quote closes this cell, its content.
_QUOTED = re.compile(r"""(?:^|(?<=\t))"(?:([^"]*(?:""[^"]*)*)"(?=\t|$))?""", re.MULTILINE)
_FIRST_ROWS = 20  # whose cells are counted to find the separator; chosen by hand


class RowError(ValueError):
    """A row has more cells than the header, or swallows others; the message follows the name of the file."""


def separator(path: Path, suffix: str) -> str:
    """What separates the cells of a table: of a .csv the sign that cuts its header into most cells.

    Signs that cut the first rows into another number of cells than the header come last.
    """
    if suffix == ".tsv":
        return "\t"

    def rank(sign: str) -> tuple[bool, int]:
        sizes = [len(cells) for cells in _first_records(path, sign)] or [0]
        return sizes[0] > 1 and len(set(sizes)) == 1, sizes[0]

    return max(_SEPARATORS, key=rank)  # the first of equals


def has_bare_quotes(path: Path) -> bool:
    """Whether quotes in a file with tabs are part of its texts, as in GLUE's files, and enclose no cells.

    They are where a quote opens a cell and does not close it, or where quoted cells hold tabs and line
    breaks. They are not where the file shows elsewhere that quotes enclose its cells: by a quoted header, by
    doubled quotes in a quoted cell, or by one with tabs and line breaks without which the lines would have
    other numbers of tabs than the header.
    """
    text = path.read_text(encoding="utf-8-sig")
    n_tabs = text.partition("\n")[0].count("\t")
    opens_cells = spans_cells = False
    for match in _QUOTED.finditer(text):
        content = match[1]
        if content is None:
            opens_cells = True
        elif "\t" in content or "\n" in content:
            lines = text[text.rfind("\n", 0, match.start()) + 1 : _line_end(text, match.end())].split("\n")
            if any(line.count("\t") != n_tabs for line in lines if line.strip()):
                return False
            spans_cells = True
        elif '"' in content or match.start() == 0:
            return False
    return opens_cells or (spans_cells and n_tabs > 0)


def _line_end(text: str, place: int) -> int:
    end = text.find("\n", place)
    return len(text) if end < 0 else end


def check_rows(path: Path, sign: str, *, has_quotes: bool) -> None:
    """Raise RowError at the first row with more cells than the header; quotes may enclose cells."""
    header: list[str] = []
    line = 1
    with contextlib.suppress(csv.Error, UnicodeError), path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=sign, quoting=csv.QUOTE_MINIMAL if has_quotes else csv.QUOTE_NONE)
        for cells in reader:
            header = header or cells
            if len(cells) > len(header):
                raise RowError(
                    f"has {len(cells)} cells in line {line} ({shortened(sign.join(cells), 60)!r}) and "
                    f"{len(header)} in its header ({shortened(', '.join(header), 60)}); quote each cell that "
                    f"holds a {sign!r}, and begin the file with its header."
                )
            line = reader.line_num + 1


def check_quotes(path: Path, sign: str) -> None:
    """Raise RowError at the first quote that opens a cell and closes another, in front of a text.

    Such a quote is a text's own, and all between the two would be one cell. Within a cell they do no harm.
    """
    n_columns, lines = 0, list[str]()  # those of the record that is being read

    def kept(file: Iterable[str]) -> Iterator[str]:
        for line in file:
            lines.append(line)
            yield line

    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(kept(file), delimiter=sign, strict=True)
        while True:
            lines.clear()
            first = reader.line_num + 1
            try:
                cells = next(reader)
                n_columns = n_columns or len(cells)
            except StopIteration:
                return
            except csv.Error as error:
                if "expected after" not in str(error):  # a null byte, or a cell of over 128 KiB
                    continue
                cells = next(csv.reader(lines, delimiter=sign))
                if len(lines) > 1 or len(cells) < n_columns:
                    start = shortened(lines[0].strip(), 50)
                    raise RowError(
                        f"has a quote in line {first} ({start!r}) that opens a cell and ends another in "
                        f"line {reader.line_num}, so that all between would be one cell; put a text that "
                        "holds quotes between quotes, and double those inside."
                    ) from error


def _first_records(path: Path, sign: str) -> list[list[str]]:
    """The cells of the header and the first rows, as a sign outside of quotes separates them."""
    records: list[list[str]] = []
    with contextlib.suppress(csv.Error):  # a null byte, or a cell of over 128 KiB
        for cells in _records(path, sign):
            if any(cells):
                records.append(cells)
            if len(records) > _FIRST_ROWS:
                break
    return records


def _records(path: Path, sign: str) -> Iterator[list[str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        yield from csv.reader(file, delimiter=sign)
