"""Labels in lists, labels separated by commas, and rare labels."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from autopeft.data import load
from autopeft.errors import DataError
from autopeft.types import DataSpec

N = 90


def read(source, **spec):
    return load(DataSpec(source=str(source), **spec), seed=0)


def write(path, labels):
    rows = [{"text": f"number {i}", "label": label} for i, label in enumerate(labels)]
    if path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        pd.DataFrame(rows).to_csv(path, index=False)
    return path


def labels_of(data):
    splits = (data.train, data.search, data.confirm)
    return {
        int(text.split()[1]): label
        for split in splits
        for (text,), label in zip(split.inputs, split.labels, strict=True)
    }


@pytest.mark.parametrize("kind", [int, float, bool])
def test_vectors_of_0_and_1_are_refused(tmp_path, kind):
    labels = [[kind(item) for item in (1, 0, 0)]] * N
    with pytest.raises(DataError, match="Row 1 of train"):
        read(write(tmp_path / "rows.jsonl", labels))


@pytest.mark.parametrize("lists", [[[0], [1], [0, 1]], [[0, 1], [1, 0], [1]], [["0", "1"], ["1", "1"]]])
def test_lists_of_numbers_of_labels_stay_numbers_of_labels(tmp_path, lists):
    data = read(write(tmp_path / "rows.jsonl", lists * (N // len(lists))))
    read_lists = {i: [int(data.label_names[at]) for at in label] for i, label in labels_of(data).items()}
    assert read_lists == {i: list(dict.fromkeys(map(int, lists[i % len(lists)]))) for i in read_lists}
    assert len(read_lists) == N // len(lists) * len(lists)


def test_a_single_label_between_lists_is_a_list_of_one(tmp_path):
    labels = [[["pos"], "pos", "neg", ["neg", "pos"]][i % 4] for i in range(N)]
    lists = [[label] if isinstance(label, str) else label for label in labels]
    mixed = read(write(tmp_path / "mixed.jsonl", labels))
    even = read(write(tmp_path / "even.jsonl", lists))
    assert mixed.label_space == even.label_space and labels_of(mixed) == labels_of(even)


def test_labels_separated_by_commas_are_several_labels_of_kind_classes(tmp_path):
    pairs = [(i % 5, 5 + i // 5) for i in range(60)]
    path = write(tmp_path / "rows.csv", [f"{a},{b}" for a, b in pairs])
    data = read(path, label_kind="classes")
    assert {i: tuple(int(data.label_names[at]) for at in at_) for i, at_ in labels_of(data).items()} == dict(
        enumerate(pairs)
    )


@pytest.mark.parametrize("n_rare", [3, 4, 6])
def test_a_rare_label_is_in_every_split_that_is_cut(tmp_path, n_rare):
    data = read(write(tmp_path / "rows.jsonl", ["neg"] * 500 + ["pos"] * n_rare))
    counts = [sum(split.labels) for split in (data.train, data.search, data.confirm)]
    assert min(counts) >= 1 and sum(counts) == n_rare
    n_confirm = -(-15 * (500 + n_rare) // 100)  # rounded up, as for other labels
    assert len(data.confirm.labels) == n_confirm


@pytest.mark.parametrize(("n_labels", "n_most"), [(120, 40), (300, None)])
def test_labels_that_outnumber_the_rows_that_may_go_are_refused(tmp_path, n_labels, n_most):
    labels = [[f"l{i % n_labels}", "common"] for i in range(300)]
    with pytest.raises(DataError, match=f"{n_labels + 1} labels"):
        read(write(tmp_path / "rows.jsonl", labels), max_examples=n_most)
