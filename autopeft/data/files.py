"""Reads one data file into a table: tables, plain texts and tagged sentences, packed by gzip or not.

`load_dataset("csv", ...)` counts a download at s3.amazonaws.com even for a local file; therefore files are
read by `Dataset.from_csv` and its like, with a temporary cache.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import glob
import gzip
import re
import shutil
import tempfile
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pyarrow as pa
from datasets.exceptions import DatasetsError

from autopeft.data.delimited import RowError, check_quotes, check_rows, has_bare_quotes, separator
from autopeft.data.json_strings import with_strings
from autopeft.errors import NO_ROOM, DataError
from autopeft.records import shortened

TABLES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
PACKED = ".gz"  # after any of the other suffixes
PARAGRAPH = "paragraph"  # the only column of a text file
TOKENS, TAGS = "tokens", "tags"  # the columns of tagged sentences

_SIGN_LINE = re.compile(rb"(?:\xef\xbb\xbf)?\"?sep=.\"?\r?\n", re.IGNORECASE)
_MOST_LINES = 2  # of what a library says of a file; the rest is advice
_N_UNIVERSAL = 10  # cells of a token in CoNLL-U
_FEW_PARAGRAPHS = 60  # a text with fewer is read line by line, so that each split gets some; chosen by hand

# pyarrow's errors are ValueErrors or of its own kind; a blank JSON file raises StopIteration; `quiet` raises
# ParserWarning; a damaged gzip file raises EOFError and zlib.error.
FILE_ERRORS = (
    *(DatasetsError, OSError, ValueError, RuntimeError, StopIteration, pd.errors.ParserWarning),
    *(EOFError, zlib.error, pa.ArrowException),
)


@dataclass(frozen=True, kw_only=True)
class TextFormat:
    """How a task reads files of plain text: their suffixes, and a function from the text to columns."""

    suffixes: tuple[str, ...]
    columns: Callable[[str], dict[str, list[Any]]]


def suffix_of(path: Path) -> str:
    """The suffix that tells the format, in lower case; that of `rows.csv.gz` is .csv."""
    return unpacked_name(path).suffix.lower()


def unpacked_name(path: Path) -> Path:
    """The path of what a packed file holds: `rows.csv` for `rows.csv.gz`."""
    return path.with_suffix("") if path.suffix.lower() == PACKED else path


def suffixes_of(text: TextFormat | None) -> tuple[str, ...]:
    """The suffixes of the files that are read, those of tables first."""
    return (*TABLES, *(text.suffixes if text else ()))


@contextlib.contextmanager
def quiet() -> Iterator[str]:
    """A context in which `datasets` is silent; yields a cache folder that is deleted afterwards."""
    had_bars, verbosity = not datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    datasets.disable_progress_bars()
    try:
        with (
            tempfile.TemporaryDirectory(prefix="autopeft-", ignore_cleanup_errors=True) as cache,
            warnings.catch_warnings(),
        ):
            # pandas drops the cells of a row beyond the header, and only warns.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            yield cache
    finally:
        datasets.logging.set_verbosity(verbosity)
        if had_bars:
            datasets.enable_progress_bars()


def read_table(path: Path, notes: list[str], text: TextFormat | None = None) -> Any:
    """The table of one file, or the dataset in a folder that `save_to_disk` wrote.

    A note tells where the quotes of a file are read as text.

    Raises:
        DataError: The file is of another format, damaged or blank.
    """
    suffix = suffix_of(path)
    if path.is_file() and suffix not in suffixes_of(text):
        raise DataError(
            f"{path} has the suffix {suffix!r}; convert it to one of {', '.join(suffixes_of(text))}."
        )
    with quiet() as cache:
        try:
            if path.is_dir():
                return _saved(path)
            table = _table_of(
                _without_sign_line(_unpacked(path, Path(cache)), Path(cache)), cache, notes, text
            )
            table.info.dataset_name = path.name  # for messages
            return table
        except RowError as error:
            raise DataError(f"{path} {error}") from error
        except FILE_ERRORS as error:
            if _is_of_full_disk(error):
                raise DataError(
                    f"{path} was not read: there is no room for its rows in {Path(cache).parent}; free some, "
                    "or set TMPDIR to a larger folder."
                ) from error
            lines = [line for line in map(str.strip, str(error.__cause__ or error).splitlines()) if line]
            reason = ": ".join(lines[:_MOST_LINES]).rstrip(".!") or "it is blank"
            if "thread" in reason:  # of a pool that reads the file
                raise DataError(
                    f"{path} was not read: the system allows this process no more threads ({reason}); raise "
                    "the limit (ulimit -u) or end other processes."
                ) from error
            kind = f"UTF-8 {suffix[1:]} file" if path.is_file() else "saved dataset"
            remedy = "Save it as UTF-8." if _is_of_encoding(path, error) else "Repair or replace it."
            sentence = f"{path} holds no rows or is no {kind}: {reason}. {remedy}"
            raise DataError(sentence) from error


def _saved(path: Path) -> Any:
    """What `save_to_disk` wrote; raises a ValueError where it cannot be read."""
    try:
        return datasets.load_from_disk(str(path)).with_format(None)  # of which a saved one may be torch's
    except (IndexError, KeyError, TypeError) as error:  # a split without rows or files
        reason = f"one of its splits has no rows, or a file is missing ({type(error).__name__}: {error})"
        raise ValueError(reason) from None


def _unpacked(path: Path, folder: Path) -> Path:
    """The file itself, or a copy in the folder without its gzip."""
    if path.suffix.lower() != PACKED:
        return path
    plain = folder / unpacked_name(path).name
    with gzip.open(path) as packed, plain.open("wb") as file:
        shutil.copyfileobj(packed, file)
    return plain


def _without_sign_line(path: Path, folder: Path) -> Path:
    """The table itself, or a copy in the folder without a first line such as `sep=;`, which Excel reads."""
    if suffix_of(path) != ".csv":
        return path
    with path.open("rb") as file:
        if not _SIGN_LINE.fullmatch(file.readline()):
            return path
        plain = folder / f"rows-{path.name}"
        with plain.open("wb") as copy:
            shutil.copyfileobj(file, copy)
    return plain


def _is_of_encoding(path: Path, error: BaseException) -> bool:
    """Whether a file cannot be read as UTF-8 alone: it begins as UTF-16 does, or its bytes are others."""
    if path.is_file():
        with path.open("rb") as file:
            if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
                return True
    return isinstance(error, UnicodeError) or isinstance(error.__cause__, UnicodeError)


def _is_of_full_disk(error: BaseException | None) -> bool:
    """Whether an error, or one that it was raised from, is that of a disk without room."""
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return True
    return error is not None and _is_of_full_disk(error.__cause__ or error.__context__)


def _table_of(path: Path, cache: str, notes: list[str], text: TextFormat | None) -> Any:
    suffix = suffix_of(path)
    if text and suffix in text.suffixes:
        return datasets.Dataset.from_dict(text.columns(path.read_text(encoding="utf-8-sig")))
    options: dict[str, Any] = {"cache_dir": cache, "keep_in_memory": True}
    name = glob.escape(str(path))
    if suffix == ".parquet":
        return datasets.Dataset.from_parquet(name, **options)
    if suffix in (".csv", ".tsv"):
        return _delimited(path, notes, options)
    if _begins_with_null(path):
        raise ValueError("its first row is null")  # which would end this process in pyarrow
    try:
        rows = datasets.Dataset.from_json(name, **options)
    except DatasetsError:  # a key that is first seen, or is filled, beyond the first piece of a file
        rows = datasets.Dataset.from_json(name, chunksize=path.stat().st_size, **options)
    return with_strings(rows, path)


def _delimited(path: Path, notes: list[str], options: dict[str, Any]) -> Any:
    """The table of a CSV or TSV file."""
    with path.open("rb") as file:
        if b"\0" in file.readline():  # which pandas 2 leaves out in silence
            raise ValueError("its first line holds a null byte")
    sign = separator(path, suffix_of(path))
    form: dict[str, Any] = {"sep": sign, "index_col": False}
    has_quotes = not (sign == "\t" and has_bare_quotes(path))
    if not has_quotes:
        form["quoting"] = csv.QUOTE_NONE
        notes.append(f"Quotes in {path.name} are read as part of its texts, since they do not enclose cells.")
    try:
        # Cells stay as written: "007" does not become 7, nor "null" or "NA" a missing cell.
        header = pd.read_csv(path, nrows=0, **form).columns
        _note_repeated(path, header, form, notes)
        form |= {"converters": dict.fromkeys(header, str), "na_filter": False}
        rows = datasets.Dataset.from_csv(glob.escape(str(path)), **options, **form)
    except FILE_ERRORS:
        check_rows(path, sign, has_quotes=has_quotes)
        raise
    if has_quotes:
        check_quotes(path, sign)
    return rows


def _note_repeated(path: Path, header: Sequence[str], form: Mapping[str, Any], notes: list[str]) -> None:
    """Note the columns that pandas names anew, since others before them have their names."""
    written = pd.read_csv(path, nrows=1, header=None, dtype=str, na_filter=False, **form).iloc[0]
    first = {name: index for index, name in reversed([*enumerate(written)])}
    renamed = [
        name
        for index, (name, as_written) in enumerate(zip(header, written, strict=True))
        if as_written.strip() and first[as_written] < index
    ]
    if renamed:
        notes.append(
            f"{path.name} has columns of equal names; later ones are named {', '.join(renamed)}, as for "
            "--text-column and --label-column."
        )


def _begins_with_null(path: Path) -> bool:
    """Whether the first word of a JSON file is null."""
    with path.open("rb") as file:
        line = next((line for line in file if line.strip(b"\xef\xbb\xbf \t\r\n")), b"")
    return line.strip(b"\xef\xbb\xbf \t\r\n").startswith(b"null")


def _paragraphs(text: str) -> list[str]:
    """A text cut at blank lines, or at line ends if those are few; the pieces join to the whole text."""
    whole = text.replace("\r\n", "\n")
    pieces = re.findall(r"(?:[^\n]|\n(?!\s*\n))+(?:\n\s*\n+|\n?\Z)|\n+", whole)
    if len(pieces) < _FEW_PARAGRAPHS:
        pieces = whole.splitlines(keepends=True)
    if not any(piece.strip() for piece in pieces):
        raise ValueError("it is blank")
    return pieces


def _tagged_sentences(text: str) -> dict[str, list[Any]]:
    """The sentences of a CoNLL file: a line for each token, with its tag in the last cell, blanks between.

    Of the ten cells of CoNLL-U the form and its part of speech are read. Lines of comments before a sentence
    and of -DOCSTART- are left out. Raises a ValueError where a line has no tag.
    """
    blocks = [block.split("\n") for block in re.split(r"\n\s*\n", text)]
    separator = "\t" if re.search(r"^[^#\n][^\n]*\t", text, re.MULTILINE) else None
    sentences = [[line.strip().split(separator) for line in block if line.strip()] for block in blocks]
    tags = {cells[-1] for sentence in sentences for cells in sentence if not cells[0].startswith("#")}
    lines = (cells for sentence in sentences for cells in sentence)
    is_universal = any(len(cells) == _N_UNIVERSAL and cells[0] == "1" for cells in lines)
    tokens: list[list[str]] = []
    labels: list[list[str]] = []
    for sentence in sentences:
        while sentence and _is_comment(sentence[0], tags):
            sentence.pop(0)
        if is_universal:  # a range such as 1-2 and an empty node such as 1.1 stand beside the tokens
            sentence = [cells[1:4:2] for cells in sentence if cells[0].isdigit()]
        if bare := next((cells for cells in sentence if len(cells) < 2), None):
            raise ValueError(f"the line {shortened(' '.join(bare), 40)!r} has no tag after its token")
        if sentence:
            tokens.append([cells[0] for cells in sentence])
            labels.append([cells[-1] for cells in sentence])
    if not tokens:
        raise ValueError("it is blank")
    return {TOKENS: tokens, TAGS: labels}


def _is_comment(cells: list[str], tags: set[str]) -> bool:
    return cells[0] == "-DOCSTART-" or (cells[0].startswith("#") and cells[-1] not in tags)


PARAGRAPHS = TextFormat(suffixes=(".txt", ".md"), columns=lambda text: {PARAGRAPH: _paragraphs(text)})
SENTENCES = TextFormat(suffixes=(".conll", ".conllu", ".bio", ".iob", ".txt"), columns=_tagged_sentences)
