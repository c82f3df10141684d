"""Rows that occur again: what is removed and reported, and where nothing is left."""

from __future__ import annotations

import pandas as pd
import pytest

from autopeft.data import load
from autopeft.errors import DataError
from autopeft.types import DataSpec


def make_rows(n=120, *, start=0, text="sentence {}", labels="ab", **more):
    return [
        {"text": text.format(i), "label": labels[i % len(labels)]} | more for i in range(start, start + n)
    ]


def read(folder, **splits):
    for split, rows in splits.items():
        pd.DataFrame(rows).to_csv(folder / f"{split}.csv", index=False)
    return load(DataSpec(source=str(folder)), seed=0)


def test_train_with_all_its_rows_in_test_is_refused(tmp_path):
    with pytest.raises(DataError, match="Removed 120 rows"):
        read(tmp_path, train=make_rows(), test=make_rows())


def test_rows_that_occur_again_are_counted(tmp_path):
    data = read(tmp_path, train=[*make_rows(), *make_rows(60)])
    assert any(note.startswith("Removed 60 rows") for note in data.notes)
    assert data.duplicates_removed == 60


def test_too_few_rows_are_reported_with_the_rows_that_were_removed(tmp_path):
    with pytest.raises(DataError, match=r"1 row .* Removed 119 rows"):
        read(tmp_path, train=make_rows(text="the same"))
    blanks = [*make_rows(20), *make_rows(8, start=50, labels=[None]), *make_rows(2, text="  ")]
    with pytest.raises(DataError, match=r"14 rows .* 8 .* without .*label.* 2 .* without an input.* 10 rows"):
        read(tmp_path, train=[*blanks, *make_rows(10)])
