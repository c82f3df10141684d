"""Cuts of train with rows in groups: few large ones, and surplus rows."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from autopeft.data import load
from autopeft.errors import DataError
from autopeft.types import DataSpec

SPLITS = ("train", "search", "confirm")


def rows_of(sizes, *, labels="ab"):
    """Shuffled rows of groups of some sizes; the text says which row, `who` which group."""
    owners = [owner for owner, size in enumerate(sizes) for _ in range(size)]
    rows = [
        {"text": f"sentence {i}", "label": labels[i % len(labels)], "who": f"w{owner}", "day": i}
        for i, owner in enumerate(owners)
    ]
    return [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]


def read(path, rows, **spec):
    pd.DataFrame(rows).to_parquet(path / "rows.parquet")
    return load(DataSpec(source=str(path / "rows.parquet"), group_column="who", **spec), seed=0)


def column(data, rows, name):
    """A column's cells in each split."""
    cells = {row["text"]: row[name] for row in rows}
    return {split: [cells[text] for (text,) in getattr(data, split).inputs] for split in SPLITS}


def test_few_large_groups_are_cut_whole_with_a_note(tmp_path):
    rows = rows_of([100] * 5)
    data = read(tmp_path, rows)
    who = column(data, rows, "who")
    assert {split: len(set(owners)) for split, owners in who.items()} == {
        "train": 3,
        "search": 1,
        "confirm": 1,
    }
    assert sum(len(set(owners)) for owners in who.values()) == 5
    assert "Cut 100 of 500 train rows as confirm, whole groups." in data.notes


def test_each_split_says_which_of_its_rows_are_of_one_group(tmp_path):
    """A row with an empty cell is a group of its own; without a column no row is of a group."""
    rows = [{**row, "who": row["who"] if i % 5 else None} for i, row in enumerate(rows_of([3] * 100))]
    data = read(tmp_path, rows)
    for split, owners in column(data, rows, "who").items():
        owners = [f"row {i}" if owner is None else owner for i, owner in enumerate(owners)]
        groups = getattr(data, split).groups
        assert len(groups) == len(owners) and len(set(groups)) == len(set(owners))
        assert len(set(zip(groups, owners, strict=True))) == len(set(owners))
    unnamed = load(DataSpec(source=str(tmp_path / "rows.parquet")), seed=0)
    assert unnamed.confirm.groups == () and unnamed.fingerprint != data.fingerprint


def test_the_smallest_group_that_leaves_every_label_is_cut(tmp_path):
    rows = rows_of([150, 120, 90, 110, 130])
    alone = [row | {"label": "c"} if row["who"] == "w2" else row for row in rows]
    assert set(column(read(tmp_path, rows), rows, "who")["confirm"]) == {"w2"}
    assert set(column(read(tmp_path, alone), alone, "who")["confirm"]) == {"w3"}


@pytest.mark.parametrize("sizes", [[500], [400, 100]])
def test_groups_that_cannot_be_cut_are_refused(tmp_path, sizes):
    rows = rows_of(sizes)
    rows = [row | {"label": "c"} if row["who"] == "w1" and row["day"] % 2 else row for row in rows]
    with pytest.raises(DataError, match="group_column"):
        read(tmp_path, rows)


@pytest.mark.parametrize(("sizes", "n_most"), [([120] * 8, 200), ([300] * 4, 899), ([500] + [20] * 10, 150)])
def test_max_examples_is_never_exceeded_and_groups_stay_in_one_split(tmp_path, sizes, n_most):
    rows = rows_of(sizes)
    data = read(tmp_path, rows, max_examples=n_most)
    who = column(data, rows, "who")
    assert len(who["train"]) + len(who["search"]) == n_most
    assert sum(len(set(owners)) for owners in who.values()) == len(set().union(*who.values()))
