"""Rows that occur again: what is removed, what is told about it, and where nothing is left."""

from __future__ import annotations

import pandas as pd
import pytest

from autopeft.data import load
from autopeft.errors import DataError
from autopeft.records import DataSpec


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
        match=r"^All 120 train rows also stand in test and were removed as duplicates; give other train "
        r"rows, or a test file without them\.$",
    ):
        read(tmp_path, train=make_rows(), test=make_rows())


def test_train_whose_groups_all_stand_in_other_parts_is_refused(tmp_path):
    parts = {
        "train": make_rows(who="w"),
        "validation": make_rows(5),
        "test": make_rows(9, start=500, who="w"),
    }
    with pytest.raises(
        DataError, match=r"All 120 train rows, or their groups, also stand in test or validation"
    ):
        read(tmp_path, group_column="who", **parts)


def test_removed_rows_with_another_label_than_the_row_that_stays_are_counted(tmp_path):
    again = [row | {"label": "b"} for row in make_rows(60)]  # 30 of them had label a
    data = read(tmp_path, train=[*make_rows(), *again])
    assert (
        "Removed 60 rows whose text occurs again, 30 of them with another label than the row that stays. "
        "Check the labels of such texts." in data.notes
    )
    assert data.duplicates_removed == 60


@pytest.mark.parametrize(("labels", "told"), [("ab", ""), ("ba", ", 40 of them with another label than")])
def test_removed_rows_are_compared_with_the_split_that_kept_them(tmp_path, labels, told):
    data = read(tmp_path, train=make_rows(), test=make_rows(40, labels=labels))
    note = next(note for note in data.notes if note.startswith("Removed"))
    assert note.startswith(f"Removed 40 rows whose text occurs again{told}")
    assert "; the most precious split kept it." in note
