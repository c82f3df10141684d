"""Datasets that a Python user passes as objects: a `Dataset`, a data frame, or these by split."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pandas as pd

from autopeft.data.dataset import LabelledData, ReadRows
from autopeft.data.files import quiet
from autopeft.data.splits import load
from autopeft.errors import DataError
from autopeft.types import DataSpec

_NAME = "dataset in memory"


def load_in_memory(spec: DataSpec, data: Any, *, seed: int, read_rows: ReadRows) -> LabelledData:
    """Split a dataset in memory as `load` splits a file, by way of temporary Parquet files.

    `data` is a `Dataset`, a `DataFrame` of pandas or Polars, or a dictionary of these by split.

    Raises:
        DataError: The object is of another kind, has no rows, or cannot be used.
    """
    with tempfile.TemporaryDirectory(prefix="autopeft-", ignore_cleanup_errors=True) as parent, quiet():
        folder = Path(parent) / _NAME
        folder.mkdir()
        for split, content in (data if isinstance(data, dict) else {"train": data}).items():
            _dataset_of(content).to_parquet(folder / f"{split}.parquet")
        try:
            loaded = load(spec.model_copy(update={"source": str(folder)}), seed=seed, read_rows=read_rows)
        except DataError as error:
            error.args = (str(error).replace(str(folder), f"the {_NAME}"),)
            raise
    return replace(loaded, name=_NAME)


def _dataset_of(table: Any) -> datasets.Dataset:
    if isinstance(table, datasets.Dataset):
        return table
    if isinstance(table, pd.DataFrame):
        return datasets.Dataset.from_pandas(table, preserve_index=False)
    if hasattr(table, "to_arrow"):  # a frame of Polars
        return datasets.Dataset(table.to_arrow())
    raise DataError(
        f"The data in memory is a {type(table).__name__}; pass a datasets.Dataset, a pandas.DataFrame, a "
        "dictionary of these by split, or the name of a file."
    )
