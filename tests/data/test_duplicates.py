"""Rows that occur again: what is removed, what is told about it, and where nothing is left."""

from __future__ import annotations

import pandas as pd
import pytest

from autopeft.data import load
from autopeft.errors import DataError
from autopeft.types import DataSpec

OTHER = (
    "Of the removed rows {} had another label than the row with their text that was kept; check the labels "
    "of texts that occur again."
)


def make_rows(n=120, *, start=0, text="sentence {}", labels="ab", **more):
    return [
        {"text": text.format(i), "label": labels[i % len(labels)]} | more for i in range(start, start + n)
    ]


def read(folder, *, group_column=None, **parts):
    for part, rows in parts.items():
        pd.DataFrame(rows).to_csv(folder / f"{part}.csv", index=False)
    return load(DataSpec(source=str(folder), group_column=group_column), seed=0)


def test_train_whose_rows_all_stand_in_test_is_refused(tmp_path):
    with pytest.raises(
        DataError,
        match=r"^All 120 train rows, or their groups, also stand in test and were removed as duplicates; "
        r"give other train rows, or another file there\.$",
    ):
        read(tmp_path, train=make_rows(), test=make_rows())


def test_removed_rows_with_another_label_than_the_kept_row_are_counted(tmp_path):
    again = [row | {"label": "b"} for row in make_rows(60)]  # 30 of them had label a
    data = read(tmp_path, train=[*make_rows(), *again])
    assert {"Removed 60 rows whose text occurs again.", OTHER.format(30)} <= set(data.notes)
    assert data.duplicates_removed == 60


def test_too_few_rows_are_told_with_the_rows_that_were_removed(tmp_path):
    one_text = make_rows(text="the same")
    with pytest.raises(
        DataError,
        match=r"^Train has 1 row to learn from, after removing duplicates \(119\); 30 are needed\. Add ",
    ):
        read(tmp_path, train=one_text)
    blanks = [*make_rows(20), *make_rows(8, start=50, labels=[None]), *make_rows(2, text="  ")]
    with pytest.raises(
        DataError,
        match=r"14 rows to learn from beside 6 for confirm, after removing rows without a label \(8\), rows "
        r"without text \(2\), duplicates \(10\); 30 are needed",
    ):
        read(tmp_path, train=[*blanks, *make_rows(10)])
