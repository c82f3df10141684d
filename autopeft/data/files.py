"""Reads one data file, or a folder that `save_to_disk` wrote, into a table.

Cells of CSV files stay the texts that they are written as: `007` and `NA` are texts.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import re
import warnings
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from datasets.exceptions import DatasetsError
from packaging.version import Version

from autopeft.errors import DataError, reason_of

TABLES = (".csv", ".jsonl", ".json", ".parquet")
CONLL = (".conll", ".bio", ".iob", ".txt")

_ENCODING = "utf-8-sig"  # with or without a byte order mark
# Columns of JSON that mix types need datasets 4.7.
_MIXED: dict[str, Any] = (
    {"on_mixed_types": "use_json"} if Version(datasets.__version__) >= Version("4.7") else {}
)

# What `datasets`, pandas and pyarrow raise for damaged files.
FILE_ERRORS = (
    *(DatasetsError, OSError, ValueError, IndexError, KeyError, TypeError, OverflowError),
    *(pa.ArrowException, pd.errors.ParserWarning),
)


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


def read_table(path: Path, suffixes: Collection[str] = TABLES) -> Any:
    """Read a file, or a saved dataset of one or several tables; DataError if it is damaged or empty."""
    suffix = path.suffix.lower()
    if path.is_file() and suffix not in suffixes:
        raise DataError(
            f"{path} has the suffix {suffix!r}; allowed are {', '.join(suffixes)}. Convert it with pandas: "
            "frame = pd.read_csv(PATH), or pd.DataFrame({'text': open(PATH).read().split('\\n\\n')}) for a "
            "text; frame.to_parquet('rows.parquet')."
        )
    try:
        with quiet():
            if path.is_dir():
                # A dataset that was saved with the format of torch would yield tensors.
                return datasets.load_from_disk(str(path)).with_format(None)
            table = _read_file(path, suffix)
    except UnicodeDecodeError as error:
        is_utf16 = error.object.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        raise DataError(
            f"{path} is not UTF-8 text ({error.reason}). Convert it with pandas: frame = pd.read_csv(PATH, "
            f"encoding='{'utf-16' if is_utf16 else 'cp1252'}'); frame.to_parquet('rows.parquet')."
        ) from error
    except FILE_ERRORS as error:
        raise DataError(f"{path} cannot be read: {reason_of(error)}. Repair or replace it.") from error
    if not len(table):
        raise DataError(f"{path} has no rows.")
    table.info.dataset_name = str(path)  # for messages, and for paths that start from its folder
    return table


def _read_file(path: Path, suffix: str) -> Any:
    if suffix in CONLL:
        return datasets.Dataset.from_dict(_tagged_sentences(path.read_text(encoding=_ENCODING)))
    if suffix == ".parquet":
        table = pq.ParquetFile(path).read(use_threads=False)
        return datasets.Dataset(table, fingerprint=path.name)  # a fingerprint of the content takes long
    if suffix == ".csv":
        table = pa.Table.from_pandas(_read_csv(path), preserve_index=False)
        return datasets.Dataset(table, fingerprint=path.name)
    with path.open(encoding=_ENCODING) as file:
        first = file.readline()
        is_list = first.lstrip().startswith("[")
        rows = json.loads(first + file.read()) if is_list else _json_lines(first, file)
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError('a row is not a record such as {"text": "fine", "label": 1}')
    names = dict.fromkeys(name for row in rows for name in row)
    return datasets.Dataset.from_dict({name: [row.get(name) for row in rows] for name in names}, **_MIXED)


def _read_csv(path: Path) -> pd.DataFrame:
    """Read a CSV file as texts; raise where pandas would silently drop or fill cells."""
    with path.open(encoding=_ENCODING) as file:
        header = file.readline()
    separator = next((sign for sign in ";\t|" if "," not in header and sign in header), None)
    if separator:
        raise DataError(
            f"{path} has the separator {separator!r}, not a comma. Convert it with pandas: frame = "
            f"pd.read_csv(PATH, sep={separator!r}); frame.to_parquet('rows.parquet')."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # a row has more cells than the header
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, index_col=False, encoding=_ENCODING)
    if (short := frame.isna().any(axis=1)).any():  # an empty cell is ""
        raise ValueError(
            f"row {int(short.to_numpy().argmax()) + 1} has fewer cells than the header; quote each cell that "
            "holds a comma or a line end"
        )
    frame.columns = frame.columns.str.strip()
    return frame


def _json_lines(first: str, rest: Iterator[str]) -> list[Any]:
    rows = []
    for number, line in enumerate([first, *rest], start=1):
        try:
            rows += [json.loads(line)] if line.strip() else []
        except ValueError as error:
            raise ValueError(f"line {number} is not a JSON record ({error})") from error
    return rows


def _tagged_sentences(text: str) -> dict[str, list[Any]]:
    """Read a CoNLL file: a token per line, its tag in the last column, blank lines between sentences."""
    tokens, tags = [], []
    for block in re.split(r"\n\s*\n", text):
        lines = [line for line in block.split("\n") if line.strip() and not line.startswith("-DOCSTART-")]
        rows = [line.strip().split("\t" if "\t" in line else None) for line in lines]
        bare = next((row for row in rows if len(row) < 2), None)
        if bare:
            raise ValueError(f"the line {bare[0]!r} has no tag after its token")
        if rows:
            tokens.append([row[0] for row in rows])
            tags.append([row[-1] for row in rows])
    return {"tokens": tokens, "tags": tags}
