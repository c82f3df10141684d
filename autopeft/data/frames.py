"""A dataset that a Python user passes as an object: a `Dataset`, a data frame, or these by split."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pandas as pd

from autopeft.data.dataset import LabelledData, ReadRows
from autopeft.data.formats import quiet
from autopeft.data.splits import load
from autopeft.errors import DataError, reason_of
from autopeft.types import DataSpec, shortened

_NAME = "dataset in memory"
# What pandas, pyarrow and datasets raise for a column that they have no type for.
_UNREADABLE = (KeyError, NotImplementedError, OverflowError, TypeError, ValueError)
_MOST_LETTERS = 120  # of an error's reason, which may print a whole cell; chosen by hand


def load_in_memory(spec: DataSpec, data: Any, *, seed: int, read_rows: ReadRows) -> LabelledData:
    """Split a dataset in memory as `load` splits a file, by way of temporary Parquet files.

    `data` is a `Dataset`, a `DataFrame` of pandas or Polars, or a dictionary of these by split.

    Raises:
        DataError: The object is of another kind, has no rows, or cannot be used.
    """
    tables = {}
    for split, table in (data if isinstance(data, dict) else {"train": data}).items():
        if isinstance(table, pd.DataFrame):
            table = dataset_of(table)
        elif hasattr(table, "to_arrow"):  # a frame of Polars
            table = datasets.Dataset(table.to_arrow())
        tables[str(split)] = table
    notes: tuple[str, ...] = ()
    odd = [table for table in tables.values() if not isinstance(table, datasets.Dataset)]
    if odd or not tables:
        of = "dictionary of " if isinstance(data, dict) else ""
        kind = f"{of}{type(odd[0]).__name__}" if odd else "DatasetDict without splits"
        raise DataError(
            f"The data in memory is a {kind}; pass a datasets.Dataset, a pandas.DataFrame, a dictionary "
            "of these by split, or the name of a file."
        )
    for split in [split for split, table in tables.items() if not len(table)]:
        if len(tables) == 1 or "train" in split.lower():
            raise DataError(f"The data in memory has no rows in {split}; add rows.")
        del tables[split]
        notes += (f"Left out {split} of the data in memory, which has no rows.",)
    with tempfile.TemporaryDirectory(prefix="autopeft-", ignore_cleanup_errors=True) as parent, quiet():
        folder = Path(parent) / _NAME
        folder.mkdir()
        for split, table in tables.items():
            try:
                table.to_parquet(folder / f"{split}.parquet")
            except FileNotFoundError as error:  # a cell holds the path of a missing file
                raise DataError(
                    f"The data in memory names the file {error.filename}, which does not exist; correct the "
                    "path or drop the row."
                ) from error
            except _UNREADABLE as error:
                raise DataError(
                    f"The data in memory cannot be written as Parquet ({reason_of(error)}); drop that column "
                    "or change it."
                ) from error
        named = spec.model_copy(update={"source": str(folder)})
        try:
            loaded = load(named, seed=seed, read_rows=read_rows)
        except DataError as error:
            error.args = (str(error).replace(str(folder), f"the {_NAME}"),)
            raise
    return replace(loaded, name=_NAME, notes=notes + loaded.notes)


def dataset_of(frame: pd.DataFrame) -> datasets.Dataset:
    """Convert a data frame to a dataset, without its index; DataError for columns without a type in Arrow."""
    try:
        return datasets.Dataset.from_pandas(frame, preserve_index=False)
    except _UNREADABLE as error:
        reason = shortened(" ".join("; ".join(map(str, reversed(error.args))).split()), _MOST_LETTERS)
        raise DataError(
            f"The data in memory cannot be read ({reason}); give each column its own name and one simple "
            "type, such as text with .astype(str), or drop it."
        ) from error
