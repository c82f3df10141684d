"""Data frames without rows, with an empty split, and of Polars."""

from __future__ import annotations

import datasets
import pandas as pd
import pytest
from toys.memory import toy_dataset

import autopeft
from autopeft.errors import DataError
from autopeft.plugins import discover
from autopeft.setup.look import InMemory, load_data
from autopeft.types import RunSpec

N = 120


def test_data_without_rows_is_refused(model_dir):
    with pytest.raises(DataError, match="no rows"):
        autopeft.analyze(str(model_dir), pd.DataFrame(), budget="5%")


def test_an_empty_split_is_left_out_with_a_note():
    read_rows = discover("autopeft.tasks")["text-classification"].read_rows
    spec = RunSpec()
    tables = datasets.DatasetDict(train=toy_dataset(N), unsupervised=toy_dataset(N).select([]))
    alone, beside_it = (
        load_data(spec, read_rows, InMemory(data=table)) for table in (tables["train"], tables)
    )
    assert beside_it.fingerprint == alone.fingerprint
    assert any("unsupervised" in note for note in beside_it.notes)


class Polars:
    """A frame of Polars as far as it is looked at: it gives itself as an Arrow table."""

    def __init__(self, table):
        self._table = table

    def to_arrow(self):
        return self._table


def test_a_frame_of_polars_is_read_like_one_of_pandas(model_dir):
    frame = toy_dataset(120).to_pandas()
    table = datasets.Dataset.from_pandas(frame).data.table
    options = {"budget": "5%", "batch_size": 8}
    first, second = (autopeft.analyze(str(model_dir), data, **options) for data in (frame, Polars(table)))
    assert [score.values for score in first.scores] == [score.values for score in second.scores]
