"""How a CSV or TSV file is written: its separator, whether quotes enclose cells, a row that does not fit."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Iterator
from pathlib import Path

from autopeft.records import shortened

_SEPARATORS = (",", ";", "\t", "|")  # the usual ones first
_FIRST_ROWS = 20  # whose cells are counted to find the separator; chosen by hand


class LongRowError(ValueError):
    """A row has more cells than the header; the message follows the name of the file."""


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

    They are where a quote neither begins nor ends a cell, or is never closed; and where quoted cells hold
    tabs and line breaks, but every line of the file has as many tabs as the header.
    """
    encloses_separators = False
    try:
        for cells in _records(path, "\t", strict=True):
            encloses_separators |= any("\t" in cell or "\n" in cell for cell in cells)
    except csv.Error as error:
        if "field limit" not in str(error):  # a cell of over 128 KiB, which says nothing about its quotes
            return True
        encloses_separators = True
    if not encloses_separators:
        return False
    with path.open(encoding="utf-8-sig") as file:
        counts = {line.count("\t") for line in file if line.strip()}
    return len(counts) == 1 and counts != {0}


def check_rows(path: Path, sign: str, *, has_quotes: bool) -> None:
    """Raise LongRowError at the first row with more cells than the header; quotes may enclose cells."""
    header: list[str] = []
    line = 1
    with contextlib.suppress(csv.Error, UnicodeError), path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=sign, quoting=csv.QUOTE_MINIMAL if has_quotes else csv.QUOTE_NONE)
        for cells in reader:
            header = header or cells
            if len(cells) > len(header):
                raise LongRowError(
                    f"has {len(cells)} cells in line {line} ({shortened(sign.join(cells), 60)!r}) and "
                    f"{len(header)} in its header ({shortened(', '.join(header), 60)}); quote each cell that "
                    f"holds a {sign!r}, and begin the file with its header."
                )
            line = reader.line_num + 1


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


def _records(path: Path, sign: str, *, strict: bool = False) -> Iterator[list[str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        yield from csv.reader(file, delimiter=sign, strict=strict)
