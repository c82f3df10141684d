"""Labels that are easily taken for others: vectors of 0 and 1, decimal commas, prices, other column names."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest

from autopeft.data import load, read_choices, read_texts
from autopeft.errors import DataError
from autopeft.records import DataSpec

N = 90


def read(source, read_rows=read_texts, **spec):
    return load(DataSpec(source=str(source), **spec), seed=0, read_rows=read_rows)


def write(path, labels, *, sep=","):
    rows = [{"text": f"number {i}", "label": label} for i, label in enumerate(labels)]
    if path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        pd.DataFrame(rows).to_csv(path, index=False, sep=sep)
    return path


def labels_of(data):
    splits = (data.train, data.search, data.confirm)
    return {
        int(text.split()[1]): label
        for split in splits
        for (text,), label in zip(split.inputs, split.labels, strict=True)
    }


@pytest.mark.parametrize(("kind", "suffix"), [(int, ".jsonl"), (float, ".csv"), (bool, ".jsonl")])
def test_vectors_of_0_and_1_are_labels_by_their_places(tmp_path, kind, suffix):
    vectors = np.random.default_rng(0).integers(0, 2, (N, 3))
    labels = [[kind(item) for item in vector] for vector in vectors.tolist()]
    data = read(write(tmp_path / f"rows{suffix}", labels))
    assert (data.target.kind, data.label_names) == ("classes", ("0", "1", "2"))
    assert labels_of(data) == {i: tuple(np.flatnonzero(vector)) for i, vector in enumerate(vectors)}
    assert any("3 zeros and ones in each row, one for each label" in note for note in data.notes)


@pytest.mark.parametrize(
    "lists", [[[0], [1], [0, 1]], [[0, 1], [1, 0], [1]], [[0, 2, 1], [1, 0, 0]], [["0", "1"], ["1", "1"]]]
)
def test_lists_of_numbers_of_labels_stay_numbers_of_labels(tmp_path, lists):
    data = read(write(tmp_path / "rows.jsonl", lists * (N // len(lists))))
    read_lists = {i: [int(data.label_names[at]) for at in label] for i, label in labels_of(data).items()}
    assert read_lists == {i: list(dict.fromkeys(map(int, lists[i % len(lists)]))) for i in read_lists}
    assert len(read_lists) == N // len(lists) * len(lists)


def test_lists_in_lists_are_refused_as_labels(tmp_path):
    with pytest.raises(DataError, match=r"holds .*\[\[0\], \[1\]\].*; allowed is|holds \[0\]; allowed is"):
        read(write(tmp_path / "rows.jsonl", [[[0], [1]]] * N))


def test_a_vector_of_another_length_is_named(tmp_path):
    write(tmp_path / "train.jsonl", [[i % 2, 1, 0] for i in range(N)])
    write(tmp_path / "test.jsonl", [[1, 0, 0], [1, 0]])
    with pytest.raises(DataError, match=r"^Row 2 of test has \[1, 0\] in column label; .* have 3 numbers"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("odd", "row"),
    [
        ([math.nan, 1, 0], 0),
        ([1, 0], 8),
        ([None, 0.0], 0),
        ([-1, 0, 0], 8),
        ([0.5, 0, 1], 0),
        ([], 8),
        (["1"], 8),
    ],
)
def test_a_row_unlike_the_other_vectors_is_named(tmp_path, odd, row):
    labels = [[float(i % 2), 1.0, 0.0] for i in range(N)]
    labels[row] = odd
    write(tmp_path / "rows.jsonl", labels)
    with pytest.raises(DataError, match=rf"^Row {row + 1} of train has \[.*; .* have 3 numbers, 0 or 1"):
        read(tmp_path / "rows.jsonl")


def test_a_single_label_between_lists_is_a_list_of_one(tmp_path):
    labels = [[["pos"], "pos", "neg", ["neg", "pos"]][i % 4] for i in range(N)]
    lists = [[label] if isinstance(label, str) else label for label in labels]
    mixed = read(write(tmp_path / "mixed.jsonl", labels))
    even = read(write(tmp_path / "even.jsonl", lists))
    assert mixed.target == even.target and labels_of(mixed) == labels_of(even)


@pytest.mark.parametrize("label", ["{:.1f}", "{:,.0f}"], ids=["decimals", "thousands"])
def test_numbers_with_commas_are_refused_unless_the_kind_is_named(tmp_path, label):
    labels = [
        label.format(1000 + i / 10 if "," not in label else 1000 * i).replace(".", ",") for i in range(N)
    ]
    path = write(tmp_path / "rows.csv", labels, sep=";")
    with pytest.raises(
        DataError, match=r"^Column label has labels such as '[\d,]+', whose comma may be a dec"
    ):
        read(path)


def test_labels_divided_by_commas_are_several_labels_where_classes_are_asked_for(tmp_path):
    pairs = [(i % 5, 5 + i // 5) for i in range(60)]
    path = write(tmp_path / "rows.csv", [f"{a},{b}" for a, b in pairs], sep=";")
    data = read(path, label_kind="classes")
    assert {i: tuple(int(data.label_names[at]) for at in at_) for i, at_ in labels_of(data).items()} == dict(
        enumerate(pairs)
    )


def test_prices_without_cents_are_numbers(tmp_path):
    data = read(write(tmp_path / "rows.csv", [f"{i}.00" for i in range(N)]))
    assert (data.target.kind, labels_of(data)) == ("number", {i: float(i) for i in range(N)})


def test_few_labels_with_a_comma_are_classes(tmp_path):
    path = write(tmp_path / "rows.csv", ["1", "1,5", "2,5"] * (N // 3), sep=";")
    assert read(path).label_names == ("1", "1,5", "2,5")
    assert read(path, label_kind="classes").label_names == ("1", "2", "5")


def test_amounts_are_no_numbers(tmp_path):
    path = write(tmp_path / "rows.csv", [f"${900 + 37 * (i % 15):.2f}" for i in range(150)])
    with pytest.raises(DataError, match=r"in row 1 of train, and 150 of 150 labels are no numbers from"):
        read(path, label_kind="number")


@pytest.mark.parametrize(("part", "name"), [("validation", "Label"), ("test", "label ")])
def test_a_label_column_that_differs_in_case_or_blanks_is_named(tmp_path, part, name):
    path = write(tmp_path / "train.csv", [i % 2 for i in range(N)])
    pd.read_csv(path).rename(columns={"label": name}).to_csv(tmp_path / f"{part}.csv", index=False)
    with pytest.raises(
        DataError, match=rf"table \({part}\.csv\) lacks column label; it has text, {name}\. Name the"
    ):
        read(tmp_path)


def test_a_validation_file_without_labels_is_refused(tmp_path):
    path = write(tmp_path / "train.csv", [i % 2 for i in range(N)])
    pd.read_csv(path).rename(columns={"label": "mood"}).to_csv(tmp_path / "validation.csv", index=False)
    with pytest.raises(DataError, match=r"A validation table \(validation\.csv\) lacks column label"):
        read(tmp_path)
    rows = [{"question": f"what {i}?", "choices": ["x", "y"], "answer": i % 2} for i in range(N)]
    for name in ("train", "validation"):
        (tmp_path / "choices").mkdir(exist_ok=True)
        pd.DataFrame(rows).to_parquet(tmp_path / "choices" / f"{name}.parquet")
        rows = [{"question": "why?", "choices": ["x", "y"]}]
    with pytest.raises(
        DataError,
        match=r"A validation table \(validation\.\w+\) lacks column answer; it has question, choices",
    ):
        read(tmp_path / "choices", read_choices)


@pytest.mark.parametrize("label_kind", ["number", None])
def test_a_constant_number_cannot_be_learned(tmp_path, label_kind):
    path = write(tmp_path / "rows.csv", [3.5] * N)
    with pytest.raises(DataError, match=r"^Label column label has only .*3\.5.* in train; at least 2 "):
        read(path, label_kind=label_kind)
