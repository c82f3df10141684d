"""Reads one data file into a table: tables, plain texts and tagged sentences, packed by gzip or not."""

from __future__ import annotations

import codecs
import contextlib
import gzip
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from datasets.exceptions import DatasetsError

from autopeft.data.tables import PACKED, FaultyRowError, opened, read_delimited, read_json
from autopeft.errors import DataError
from autopeft.records import shortened

TABLES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
PARAGRAPH = "paragraph"  # the only column of a text file
TOKENS, TAGS = "tokens", "tags"  # the columns of tagged sentences

_MOST_LINES = 2  # of what a library says of a file; the rest is advice
_N_UNIVERSAL = 10  # cells of a token in CoNLL-U
_FEW_PARAGRAPHS = 60  # a text with fewer is read line by line, so that each split gets some; chosen by hand

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
    """The suffix that tells the format, in lower case; that of `rows.csv.gz` is .csv."""
    return unpacked_name(path).suffix.lower()


def unpacked_name(path: Path) -> Path:
    """The path of what a packed file holds: `rows.csv` for `rows.csv.gz`."""
    return path.with_suffix("") if path.suffix.lower() == PACKED else path


def suffixes_of(text: TextFormat | None) -> tuple[str, ...]:
    """The suffixes of the files that are read, those of tables first."""
    return (*TABLES, *(text.suffixes if text else ()))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """A context in which `datasets` is silent."""
    had_bars, verbosity = not datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    datasets.disable_progress_bars()
    try:
        yield
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
    with quiet():
        try:
            if path.is_dir():
                try:
                    saved = datasets.load_from_disk(str(path))
                    return saved.with_format(None)  # a saved one may have the format of torch
                except (IndexError, KeyError, TypeError) as error:  # a split without rows or files
                    fault = f"{type(error).__name__}: {error}"
                    raise ValueError(
                        f"one of its splits has no rows, or a file is missing ({fault})"
                    ) from None
            table = _table_of(path, notes, text)
            table.info.dataset_name = path.name  # for messages
            return table
        except FaultyRowError as error:
            raise DataError(f"{path} {error}") from error
        except FILE_ERRORS as error:
            lines = [line for line in map(str.strip, str(error.__cause__ or error).splitlines()) if line]
            reason = ": ".join(lines[:_MOST_LINES]).rstrip(".!") or type(error).__name__
            kind = f"UTF-8 {suffix[1:]} file" if path.is_file() else "saved dataset"
            remedy = "Save it as UTF-8." if _is_of_encoding(path, error) else "Repair or replace it."
            raise DataError(f"{path} holds no rows or is no {kind}: {reason}. {remedy}") from error


def _is_of_encoding(path: Path, error: BaseException) -> bool:
    """Whether a file cannot be read as UTF-8 alone: it begins as UTF-16 does, or its bytes are others."""
    if path.is_file():
        with path.open("rb") as file:
            if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
                return True
    return isinstance(error, UnicodeError)


def _table_of(path: Path, notes: list[str], text: TextFormat | None) -> Any:
    suffix = suffix_of(path)
    if text and suffix in text.suffixes:
        with opened(path) as file:
            return datasets.Dataset.from_dict(text.columns(file.read()))
    if suffix == ".parquet":
        with gzip.open(path) if path.suffix.lower() == PACKED else path.open("rb") as file:
            table = pq.ParquetFile(file).read(use_threads=False)
            return datasets.Dataset(table, fingerprint=path.name)
    if suffix in (".csv", ".tsv"):
        return read_delimited(path, "\t" if suffix == ".tsv" else None, notes)
    return read_json(path)


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
        while sentence and (
            sentence[0][0] == "-DOCSTART-" or (sentence[0][0].startswith("#") and sentence[0][-1] not in tags)
        ):
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


PARAGRAPHS = TextFormat(suffixes=(".txt", ".md"), columns=lambda text: {PARAGRAPH: _paragraphs(text)})
SENTENCES = TextFormat(suffixes=(".conll", ".conllu", ".bio", ".iob", ".txt"), columns=_tagged_sentences)
