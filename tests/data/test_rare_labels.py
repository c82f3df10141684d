"""Rare labels: each split has a row of a label with enough rows."""

from __future__ import annotations

from collections import Counter

import pandas as pd
import pytest

from autopeft.data import load
from autopeft.errors import DataError
from autopeft.types import DataSpec

SPLITS = ("train", "search", "confirm")


def write(path, labels, *, first=0):
    rows = [{"text": f"sentence {first + i}", "label": label} for i, label in enumerate(labels)]
    pd.DataFrame(rows).to_json(path, orient="records", lines=True)


def read(path, **spec):
    return load(DataSpec(source=str(path), **spec), seed=0)


def counts_of(data):
    """How often each split has each label."""

    def names(label):
        return [data.label_names[at] for at in (label if isinstance(label, tuple) else (label,))]

    return {
        split: Counter(name for label in getattr(data, split).labels for name in names(label))
        for split in SPLITS
    }


@pytest.mark.parametrize("n_rare", [3, 4, 6])
def test_a_rare_label_is_in_every_split_that_is_cut(tmp_path, n_rare):
    write(tmp_path / "rows.jsonl", ["neg"] * 500 + ["pos"] * n_rare)
    data = read(tmp_path / "rows.jsonl")
    counts = counts_of(data)
    assert min(counts[split]["pos"] for split in SPLITS) >= 1
    assert sum(counts[split]["pos"] for split in SPLITS) == n_rare
    n_confirm = -(-15 * (500 + n_rare) // 100)  # rounded up, as for other labels
    assert len(data.confirm.labels) == n_confirm


@pytest.mark.parametrize(("n_labels", "n_most"), [(120, 40), (300, None)])
def test_labels_that_outnumber_the_rows_that_may_go_are_refused(tmp_path, n_labels, n_most):
    write(tmp_path / "rows.jsonl", [[f"l{i % n_labels}", "common"] for i in range(300)])
    with pytest.raises(DataError, match=f"{n_labels + 1} labels"):
        read(tmp_path / "rows.jsonl", max_examples=n_most)
