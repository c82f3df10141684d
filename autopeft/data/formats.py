"""Reads one data file into a table: tables, plain texts and tagged sentences, packed by gzip or not.

Cells of CSV, TSV and JSON files stay as they are written. Python's strict `csv` reads rows, since pyarrow and
pandas pass over faults such as a lone quote. Python's `json` reads JSON, since pyarrow takes "2024-05-01" for
a time.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import gzip
import json
import logging
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TextIO, cast

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from datasets.exceptions import DatasetsError
from packaging.version import Version

from autopeft.errors import DataError
from autopeft.types import counted, shortened

TABLES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
PARAGRAPH = "paragraph"  # the only column of a text file
TOKENS, TAGS = "tokens", "tags"  # the columns of tagged sentences

_PACKED = ".gz"  # after any other suffix
_MOST_PACKED, _UNPACKED_BYTES = 100, 50e6  # growth that is allowed: texts grow tenfold, a bomb a thousandfold
_SEPARATORS = (",", ";", "\t", "|")  # the most usual first, which wins a tie
_FIRST_ROWS = 20  # whose cells are counted to find the separator; chosen by hand
_LONGEST_ROW = 2**26  # bytes; chosen by hand
_UTF8 = "utf-8-sig"  # with or without a byte order mark
_OF_SPREADSHEETS = "cp1252"  # what Excel saves a CSV file in, on Windows of the West
_LETTER_OF_UTF8 = re.compile("[\xc3-\xdf][\x80-\xbf]")  # of two bytes, which other letters hardly form
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_MOST_LINES = 2  # of a library's error message that ours quotes; further lines give advice
_N_UNIVERSAL = 10  # cells of a token in CoNLL-U
_MANY_DIGITS = 20  # an integer with so many may exceed 64 bits: 2^63 has 19
_FEW_PARAGRAPHS = 60  # a text with fewer is read line by line, so that each split gets some; chosen by hand

_MIXED_TYPES_SINCE = Version("4.7")  # of datasets: columns that mix types

log = logging.getLogger(__name__)

# pyarrow's errors are ValueErrors or of its own kind; a damaged gzip file raises EOFError and zlib.error.
FILE_ERRORS = (
    *(DatasetsError, OSError, ValueError, RuntimeError, OverflowError, EOFError, zlib.error),
    pa.ArrowException,
)


@dataclass(frozen=True, kw_only=True)
class TextFormat:
    """How a task reads files of plain text: their suffixes, and a function from the text to columns."""

    suffixes: tuple[str, ...]
    columns: Callable[[str], dict[str, list[Any]]]


def suffix_of(path: Path) -> str:
    """Find the suffix that names the format, in lower case: .csv for `rows.csv.gz`."""
    return unpacked_name(path).suffix.lower()


def unpacked_name(path: Path) -> Path:
    """Drop the suffix .gz: `rows.csv` for `rows.csv.gz`; other paths stay."""
    return path.with_suffix("") if path.suffix.lower() == _PACKED else path


def suffixes_of(text: TextFormat | None) -> tuple[str, ...]:
    """List the suffixes of files that can be read: those of tables, then those of the task's texts."""
    return (*TABLES, *(text.suffixes if text else ()))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the logs and progress bars of `datasets` in this context."""
    had_bars, verbosity = not datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.logging.set_verbosity(verbosity)
        if had_bars:
            datasets.enable_progress_bars()


def read_table(path: Path, text: TextFormat | None = None) -> Any:
    """Read one file, or a folder that `save_to_disk` wrote, into a table or a dictionary of tables by split.

    Raises:
        DataError: The file is of another format, damaged or blank.
    """
    suffix = suffix_of(path)
    if path.is_file() and suffix not in suffixes_of(text):
        raise DataError(
            f"{path} has the suffix {suffix!r}; convert it to one of {', '.join(suffixes_of(text))}."
        )
    with quiet():
        try:
            if path.is_dir():
                saved = datasets.load_from_disk(str(path))
                return saved.with_format(None)  # it may have been saved with the format of torch
            table = _read_file(path, text)
            table.info.dataset_name = path.name  # for messages
            return table
        except _FaultyRowError as error:
            raise DataError(f"{path} {error}") from error
        except (IndexError, KeyError, TypeError) as error:
            if path.is_file():
                raise
            fault = f"{type(error).__name__}: {error}"
            raise DataError(
                f"{path} is no saved dataset: a split has no rows, or a file is missing ({fault}). Repair or "
                "replace it."
            ) from error
        except FILE_ERRORS as error:
            lines = [line for line in map(str.strip, str(error.__cause__ or error).splitlines()) if line]
            reason = ": ".join(lines[:_MOST_LINES]).rstrip(".!") or type(error).__name__
            kind = f"UTF-8 {suffix[1:]} file" if path.is_file() else "saved dataset"
            remedy = "Save it as UTF-8." if isinstance(error, UnicodeError) else "Repair or replace it."
            raise DataError(f"{path} holds no rows or is no {kind}: {reason}. {remedy}") from error


def read_text(path: Path) -> str:
    """Read the whole text of a file; DataError if it is no UTF-8."""
    try:
        return path.read_text(encoding=_UTF8)
    except UnicodeError as error:
        raise DataError(f"{path} is no UTF-8 text: {error}. Save it as UTF-8.") from error


def _read_file(path: Path, text: TextFormat | None) -> Any:
    suffix = suffix_of(path)
    if text and suffix in text.suffixes:
        with _opened(path) as file:
            return datasets.Dataset.from_dict(text.columns(file.read()))
    if suffix == ".parquet":
        is_packed = path.suffix.lower() == _PACKED
        if is_packed:
            _require_sensible_size(path)
        with gzip.open(path) if is_packed else path.open("rb") as file:
            table = pq.ParquetFile(file).read(use_threads=False)
            return datasets.Dataset(table, fingerprint=path.name)
    if suffix in (".csv", ".tsv"):
        sign = "\t" if suffix == ".tsv" else None
        try:
            return _read_delimited(path, sign)
        except UnicodeDecodeError:
            with _opened(path, encoding="latin-1") as file:  # a letter for each byte
                is_utf16 = file.read(2).encode("latin-1") in _UTF16_MARKS
                if is_utf16 or any(_LETTER_OF_UTF8.search(line) for line in file):
                    raise  # UTF-16, or a damaged file in UTF-8
            log.warning("%s is no UTF-8 text and is read as Windows-1252; check its accents.", path)
            return _read_delimited(path, sign, _OF_SPREADSHEETS)
    return _read_json(path)


class _FaultyRowError(ValueError):
    """A file has a faulty row or header; the message follows the name of the file."""


def _opened(path: Path, *, newline: str | None = None, encoding: str = _UTF8) -> TextIO:
    """Open a file as text, unpacked, without byte order mark; the `csv` module needs `newline=""`."""
    if path.suffix.lower() == _PACKED:
        _require_sensible_size(path)
        return cast(TextIO, gzip.open(path, "rt", encoding=encoding, newline=newline))
    return path.open(encoding=encoding, newline=newline)


def _require_sensible_size(path: Path) -> None:
    """Raise DataError for a gzip file that unpacks to far more than rows of text would: a zip bomb."""
    most, n_bytes = max(_UNPACKED_BYTES, _MOST_PACKED * path.stat().st_size), 0
    with gzip.open(path) as file:
        while piece := file.read(1 << 20):
            n_bytes += len(piece)
            if n_bytes > most:
                raise DataError(
                    f"{path} unpacks to more than {most / 1e6:,.0f} MB, over {_MOST_PACKED} times its size, "
                    "which rows of text do not; unpack it yourself if you trust it."
                )


def _read_delimited(path: Path, sign: str | None, encoding: str = _UTF8) -> Any:
    """Read a CSV or TSV file whose cells are separated by `sign`, or by the sign that fits its first rows.

    Raises:
        _FaultyRowError: A row does not fit the header, or a quote does not enclose a cell.
    """
    limit = csv.field_size_limit(_LONGEST_ROW)
    try:
        sign = sign or _separator(path, encoding)
        is_bare = sign == "\t" and _has_bare_quotes(path, encoding)
        rows = _rows(path, sign, csv.QUOTE_NONE if is_bare else csv.QUOTE_MINIMAL, encoding)
        header = [name.strip() for name in next(rows, [])]
        if any("\0" in name for name in header):
            raise ValueError("its header holds a null byte")
        repeated = [name for name, n in Counter(header).items() if n > 1 and name]
        if repeated:
            raise _FaultyRowError(
                f"has several columns of the name {repeated[0]!r}; rename all but one of them."
            )
        names = [name or f"Unnamed: {place}" for place, name in enumerate(header)]
        columns = list(zip(*rows, strict=True))  # `_rows` raises at the first faulty row
        if not columns:
            raise ValueError("it has a header alone" if names else "it is blank")
    finally:
        csv.field_size_limit(limit)
    table = pa.Table.from_arrays([pa.array(cells, pa.string()) for cells in columns], names)
    return datasets.Dataset(table, fingerprint=path.name)


def _separator(path: Path, encoding: str) -> str:
    """Choose the separator that cuts all first rows into equally many cells, or the header into most."""

    def rank(sign: str) -> tuple[bool, int]:
        sizes = list[int]()
        with contextlib.suppress(csv.Error), _opened(path, newline="", encoding=encoding) as file:
            rows = (cells for cells in csv.reader(file, delimiter=sign) if any(cells))
            sizes.extend(len(cells) for cells in islice(rows, 1 + _FIRST_ROWS))
        return len(set(sizes)) == 1 < sizes[0], max(sizes[:1], default=0)

    return max(_SEPARATORS, key=rank)  # the first of equals


def _has_bare_quotes(path: Path, encoding: str) -> bool:
    """Whether quotes in a file with tabs are part of its texts, as in GLUE's files, and enclose no cells.

    True if every line has as many tabs as the header, and quotes that enclose cells would be faulty or join
    lines. A faulty quote raises _FaultyRowError if a quoted header or doubled quotes show that they enclose.
    """
    with _opened(path, newline="", encoding=encoding) as file:
        lines = [(line.count("\t"), '"' in line, '""' in line) for line in file if line.strip()]
    has_quotes, has_doubled = (any(line[place] for line in lines) for place in (1, 2))
    if not has_quotes or not lines[0][0] or len({n_tabs for n_tabs, *_ in lines}) > 1:
        return False
    try:
        return sum(1 for _ in _rows(path, "\t", csv.QUOTE_MINIMAL, encoding)) < len(lines)
    except _FaultyRowError:
        if lines[0][1] or has_doubled:
            raise
        return True


def _rows(path: Path, sign: str, quoting: Any, encoding: str) -> Iterator[list[str]]:
    """Yield the header and the rows, without blank lines; raise _FaultyRowError at the first faulty row."""
    header: list[str] = []
    line = 1
    with _opened(path, newline="", encoding=encoding) as file:
        reader = csv.reader(file, delimiter=sign, quoting=quoting, strict=True)
        try:
            for cells in reader:
                header = header or cells
                if cells and len(cells) != len(header):
                    raise _FaultyRowError(
                        f"has {counted(len(cells), 'cell')} in line {line} "
                        f"({shortened(sign.join(cells), 60)!r}) and {len(header)} in its header "
                        f"({shortened(', '.join(header), 60)}); quote each cell that holds a {sign!r} or a "
                        "line end, and begin the file with its header."
                    )
                if cells:
                    yield cells
                line = reader.line_num + 1
        except csv.Error as error:
            with _opened(path, newline="", encoding=encoding) as again:
                start = next(islice(again, line - 1, None), "").strip()
            raise _FaultyRowError(
                f"has a row that cannot be read in line {line} ({shortened(start, 50)!r}): {error}; put a "
                "text that holds quotes or line ends between quotes, and double the quotes inside."
            ) from error


def _read_json(path: Path) -> Any:
    """Read a list of records, or a record in each line, into a table; its columns may mix types."""
    columns: dict[str, list[Any]] = {}
    n_rows = 0
    for where, row in _records(path):
        if not isinstance(row, dict):
            raise _FaultyRowError(
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
    if Version(datasets.__version__) >= _MIXED_TYPES_SINCE:
        return datasets.Dataset.from_dict(columns, on_mixed_types="use_json")
    try:
        return datasets.Dataset.from_dict(columns)
    except pa.ArrowException as error:
        raise _FaultyRowError(
            f"has values of different types in one column, which datasets {datasets.__version__} cannot "
            f"hold; upgrade datasets to {_MIXED_TYPES_SINCE} or newer."
        ) from error


def _records(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield each row of a JSON file, and before it its place in words (`line 3`)."""
    with _opened(path) as file:
        lines = ((number, line) for number, line in enumerate(file, start=1) if line.strip())
        for place, (number, line) in enumerate(lines):
            if place == 0 and line.lstrip().startswith("["):
                rows = json.loads(line + file.read(), parse_int=_whole_number)
                yield from ((f"row {n}", row) for n, row in enumerate(rows, start=1))
                return
            try:
                row = json.loads(line, parse_int=_whole_number)
            except ValueError as error:
                raise _FaultyRowError(
                    f"has no whole JSON value in line {number} ({shortened(line.strip(), 50)!r}): {error}; "
                    "write a record in each line, or one list of records."
                ) from error
            yield f"line {number}", row


def _whole_number(digits: str) -> int | str:
    """Read an integer of JSON; one beyond 64 bits stays text, since a table of mixed cells cannot hold it."""
    return int(digits) if len(digits) < _MANY_DIGITS else digits


def _paragraphs(text: str) -> list[str]:
    """Cut a text into paragraphs at blank lines; if these are fewer than 60, cut it into lines instead.

    Pieces keep their line ends, so that joined they are the text. Raises ValueError for a blank text.
    """
    text = text.replace("\r\n", "\n")
    # A paragraph with the blank lines after it, or the line ends before the first paragraph.
    pieces = re.findall(r"(?:[^\n]|\n(?!\s*\n))+(?:\n\s*\n+|\n?\Z)|\n+", text)
    if len(pieces) < _FEW_PARAGRAPHS:
        pieces = text.splitlines(keepends=True)
    if not any(piece.strip() for piece in pieces):
        raise ValueError("it is blank")
    return pieces


def _tagged_sentences(text: str) -> dict[str, list[Any]]:
    """Read the sentences of a CoNLL file: one line per token, its tag in the last cell, blank lines between.

    Of the ten cells of CoNLL-U, the token and its part of speech are read. Comments before a sentence and
    -DOCSTART- lines are left out. Raises ValueError if a line has no tag, or the text is blank.
    """
    blocks = [block.split("\n") for block in re.split(r"\n\s*\n", text)]
    has_tabs = re.search(r"^[^#\n][^\n]*\t", text, re.MULTILINE)
    separator, gap = ("\t", "tab") if has_tabs else (None, "token")
    sentences = [[line.strip().split(separator) for line in block if line.strip()] for block in blocks]
    tags = {cells[-1] for sentence in sentences for cells in sentence if not cells[0].startswith("#")}
    lines = (cells for sentence in sentences for cells in sentence)
    is_universal = any(len(cells) == _N_UNIVERSAL and cells[0] == "1" for cells in lines)
    tokens: list[list[str]] = []
    labels: list[list[str]] = []
    for sentence in sentences:
        while sentence and (
            sentence[0][0] == "-DOCSTART-" or (sentence[0][0].startswith("#") and sentence[0][-1] not in tags)
        ):
            sentence.pop(0)
        if is_universal:  # a range such as 1-2 and an empty node such as 1.1 stand beside the tokens
            sentence = [cells[1:4:2] for cells in sentence if cells[0].isdigit()]
        if bare := next((cells for cells in sentence if len(cells) < 2), None):
            raise ValueError(f"the line {shortened(' '.join(bare), 40)!r} has no tag behind its {gap}")
        if sentence:
            tokens.append([cells[0] for cells in sentence])
            labels.append([cells[-1] for cells in sentence])
    if not tokens:
        raise ValueError("it is blank")
    return {TOKENS: tokens, TAGS: labels}


PARAGRAPHS = TextFormat(suffixes=(".txt", ".md"), columns=lambda text: {PARAGRAPH: _paragraphs(text)})
SENTENCES = TextFormat(suffixes=(".conll", ".conllu", ".bio", ".iob", ".txt"), columns=_tagged_sentences)
