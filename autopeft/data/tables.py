"""CSV, TSV and JSON files with their cells as they are written, packed by gzip or not.

Python's strict `csv` finds the faults of rows that pyarrow and pandas read in silence, such as a lone quote.
Python's `json` reads JSON, since pyarrow takes "2024-05-01" for a time.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import json
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TextIO, cast

import datasets
import pyarrow as pa
import pyarrow.csv

from autopeft.records import counted, shortened

PACKED = ".gz"  # after any other suffix
_SEPARATORS = (",", ";", "\t", "|")  # the usual ones first
_FIRST_ROWS = 20  # whose cells are counted to find the separator; chosen by hand
_LONGEST_ROW = 2**26  # bytes; chosen by hand


class FaultyRowError(ValueError):
    """A file has a faulty row or header; the message follows the name of the file."""


def opened(path: Path, *, newline: str | None = None) -> TextIO:
    """The UTF-8 text of a file, without gzip and byte order mark."""
    if path.suffix.lower() == PACKED:
        return cast(TextIO, gzip.open(path, "rt", encoding="utf-8-sig", newline=newline))
    return path.open(encoding="utf-8-sig", newline=newline)


def _as_written(path: Path) -> TextIO:
    """The same with line ends as they are, which the `csv` module asks for."""
    return opened(path, newline="")


def read_delimited(path: Path, sign: str | None, notes: list[str]) -> Any:
    """The table of a CSV or TSV file whose cells are separated by `sign`; None to find it.

    A note tells where the quotes of a file with tabs are read as text.

    Raises:
        FaultyRowError: A row does not fit the header, or a quote does not enclose a cell.
    """
    limit = csv.field_size_limit(_LONGEST_ROW)
    try:
        sign = sign or _separator(path)
        is_bare = sign == "\t" and _has_bare_quotes(path)
        rows = _rows(path, sign, csv.QUOTE_NONE if is_bare else csv.QUOTE_MINIMAL)
        header = next(rows, [])
        names = _column_names(header)
        if not sum(1 for _ in rows):  # which looks for faults in all of them
            raise ValueError("it has a header alone" if names else "it is blank")
    finally:
        csv.field_size_limit(limit)
    if is_bare:
        notes.append(f"Quotes in {path.name} are read as part of its texts, since they do not enclose cells.")
    table = pa.csv.read_csv(
        path,
        pa.csv.ReadOptions(use_threads=False, block_size=_LONGEST_ROW),
        pa.csv.ParseOptions(
            delimiter=sign, quote_char=False if is_bare else '"', newlines_in_values=not is_bare
        ),
        pa.csv.ConvertOptions(column_types=dict.fromkeys(header, pa.string()), strings_can_be_null=False),
    )
    return datasets.Dataset(table.rename_columns(names), fingerprint=path.name)


def _separator(path: Path) -> str:
    """The sign that cuts the header into most cells; signs that cut other rows differently come last."""

    def rank(sign: str) -> tuple[bool, int]:
        sizes = list[int]()
        with contextlib.suppress(csv.Error), _as_written(path) as file:
            rows = (cells for cells in csv.reader(file, delimiter=sign) if any(cells))
            sizes.extend(len(cells) for cells in islice(rows, 1 + _FIRST_ROWS))
        return len(set(sizes)) == 1 < sizes[0], max(sizes[:1], default=0)

    return max(_SEPARATORS, key=rank)  # the first of equals


def _has_bare_quotes(path: Path) -> bool:
    """Whether quotes in a file with tabs are part of its texts, as in GLUE's files, and enclose no cells.

    They are where each line has the tabs of the header, and quotes that enclose cells would be faulty or join
    lines. A quoted header and doubled quotes tell that quotes enclose cells.
    """
    with _as_written(path) as file:
        lines = [(line.count("\t"), '"' in line, '""' in line) for line in file if line.strip()]
    has_quotes, has_doubled = (any(line[place] for line in lines) for place in (1, 2))
    if not has_quotes or not lines[0][0] or len({n_tabs for n_tabs, *_ in lines}) > 1:
        return False
    try:
        return sum(1 for _ in _rows(path, "\t", csv.QUOTE_MINIMAL)) < len(lines)
    except FaultyRowError:
        if lines[0][1] or has_doubled:
            raise
        return True


def _rows(path: Path, sign: str, quoting: Any) -> Iterator[list[str]]:
    """The header and the rows without blank lines; raises FaultyRowError at the first faulty one."""
    header: list[str] = []
    line = 1
    with _as_written(path) as file:
        reader = csv.reader(file, delimiter=sign, quoting=quoting, strict=True)
        try:
            for cells in reader:
                header = header or cells
                if cells and len(cells) != len(header):
                    raise FaultyRowError(
                        f"has {counted(len(cells), 'cell')} in line {line} "
                        f"({shortened(sign.join(cells), 60)!r}) and {len(header)} in its header "
                        f"({shortened(', '.join(header), 60)}); quote each cell that holds a {sign!r} or a "
                        "line end, and begin the file with its header."
                    )
                if cells:
                    yield cells
                line = reader.line_num + 1
        except csv.Error as error:
            with _as_written(path) as again:
                start = next(islice(again, line - 1, None), "").strip()
            raise FaultyRowError(
                f"has a row that cannot be read in line {line} ({shortened(start, 50)!r}): {error}; put a "
                "text that holds quotes or line ends between quotes, and double the quotes inside."
            ) from error


def _column_names(header: list[str]) -> list[str]:
    """The names of the columns; one without a name gets its number."""
    if any("\0" in name for name in header):
        raise ValueError("its header holds a null byte")
    repeated = [name for name, n in Counter(header).items() if n > 1 and name.strip()]
    if repeated:
        raise FaultyRowError(f"has several columns of the name {repeated[0]!r}; rename all but one of them.")
    return [name if name.strip() else f"Unnamed: {place}" for place, name in enumerate(header)]


def read_json(path: Path) -> Any:
    """The table of a JSON file: a list of records, or a record in each line.

    Cells of several types stay as they are.
    """
    columns: dict[str, list[Any]] = {}
    n_rows = 0
    for where, row in _records(path):
        if not isinstance(row, dict):
            raise FaultyRowError(
                f"has {shortened(json.dumps(row), 40)} in {where}; a row is a record of columns, such as "
                '{"text": "fine", "label": 1}.'
            )
        for name in row:
            if name not in columns:
                columns[name] = [None] * n_rows
        for name, cells in columns.items():
            cells.append(row.get(name))
        n_rows += 1
    if not columns:
        raise ValueError("it is blank" if not n_rows else "its rows have no columns")
    return datasets.Dataset.from_dict(columns, on_mixed_types="use_json")


def _records(path: Path) -> Iterator[tuple[str, Any]]:
    """The rows of a JSON file, and where each is in words."""
    with opened(path) as file:
        lines = ((number, line) for number, line in enumerate(file, start=1) if line.strip())
        for place, (number, line) in enumerate(lines):
            if place == 0 and line.lstrip().startswith("["):
                rows = json.loads(line + file.read())
                yield from ((f"row {n}", row) for n, row in enumerate(rows, start=1))
                return
            try:
                row = json.loads(line)
            except ValueError as error:
                raise FaultyRowError(
                    f"has no whole JSON value in line {number} ({shortened(line.strip(), 50)!r}): {error}; "
                    "write a record in each line, or one list of records."
                ) from error
            yield f"line {number}", row
