"""Data frames that `datasets` cannot read as they are: read as text where that is sure, else one sentence."""

from __future__ import annotations

import uuid

import datasets
import pandas as pd
import pytest
from toys.memory import toy_dataset

import autopeft
from autopeft.data.frames import dataset_of
from autopeft.errors import DataError
from autopeft.extension import discover
from autopeft.records import RunSpec
from autopeft.run.prepare import InMemory, load_data

N = 120
TWO = [0, 1] * (N // 2)


def frame(**columns):
    return toy_dataset(N).to_pandas().assign(**columns)


def beside(table, *others):
    return pd.concat([table, *others], axis=1)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (beside(frame(), frame().label), "has several columns with the name label; rename them, or drop"),
        (beside(frame(), pd.DataFrame({1: TWO, "1": TWO})), "several columns with the name 1; rename"),
        (frame(label=[1, "a"] * (N // 2)), r"Column label of .* read \(Could not convert 'a' with type str"),
        (frame(extra=[[1], "a"] * (N // 2)), r"Column extra of .*cannot mix list and non-list.*\.astype"),
        (
            frame(extra=[uuid.UUID(int=1)] * N),
            r"Column extra of .* cannot be read \(Arrow type extension<arr",
        ),
        (frame(extra=[2**70] * N), "Column extra of .*too large"),
        (frame(extra=[frame()] * N), "Column extra of the data in memory cannot be read"),
        (frame(extra=pd.arrays.SparseArray(TWO)), "Column extra of .*Sparse"),
        (frame(text=pd.Series(["a\ud800"] * N, dtype=object)), r"Column text of .*surrogates not allowed"),
        (frame(extra=[{}] * N), "cannot be written as Parquet .*struct type 'extra'.*drop that column or"),
        (pd.DataFrame(), r"The data in memory has no rows in train; add rows"),
        ({"train": frame().iloc[:0], "test": frame()}, "has no rows in train; add rows"),
    ],
)
def test_data_that_cannot_be_read_is_refused_in_one_sentence(model_dir, table, message):
    with pytest.raises(DataError, match=message) as caught:
        autopeft.analyze(str(model_dir), table, budget="5%")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_periods_and_intervals_are_read_as_their_text_and_missing_cells_stay_missing():
    table = pd.DataFrame(
        {
            "period": pd.PeriodIndex(["2020-01", None], freq="M"),
            "interval": pd.arrays.IntervalArray.from_tuples([(0, 1), None]),
            "cut": pd.cut([0.5, 7.0], [0, 1, 2]),
        }
    )
    kinds = list(table.dtypes)
    assert dataset_of(table).to_dict() == {
        "period": ["2020-01", None],
        "interval": ["(0.0, 1.0]", None],
        "cut": ["(0, 1]", None],
    }
    assert list(table.dtypes) == kinds, "the user's frame is as before"


def test_an_empty_split_beside_train_is_left_out_with_a_note():
    read_rows = discover("autopeft.tasks")["text-classification"].read_rows
    spec = RunSpec()
    tables = datasets.DatasetDict(train=toy_dataset(N), unsupervised=toy_dataset(N).select([]))
    alone, beside_it = (
        load_data(spec, read_rows, InMemory(data=table)) for table in (tables["train"], tables)
    )
    assert beside_it.fingerprint == alone.fingerprint
    assert "Left out unsupervised of the data in memory, which has no rows." in beside_it.notes


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
