"""Labels that may mean something else than what is learned of them: a note or the error says so."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from autopeft.data import load
from autopeft.errors import DataError
from autopeft.records import DataSpec

N = 160


def rows_of(labels, *, first=0, **columns):
    cells = {name: list(value) for name, value in columns.items()}
    return pd.DataFrame(
        {"text": [f"sentence {first + i}" for i in range(len(labels))], "label": labels} | cells
    )


def read(path, frame, **spec):
    frame.to_csv(path, index=False) if path.suffix == ".csv" else frame.to_json(
        path, orient="records", lines=True
    )
    return load(DataSpec(source=str(path), **spec), seed=0)


def has_note(data, *words):
    return any(all(word in note for word in words) for note in data.notes)


@pytest.mark.parametrize("part", ["validation", "test"])
def test_a_part_without_the_groups_of_train_is_noted(tmp_path, part):
    rows_of(["a", "b"] * 80, who=np.repeat(range(40), 4)).to_csv(tmp_path / "train.csv", index=False)
    rows_of(["a", "b"] * 20, first=1000).to_csv(tmp_path / f"{part}.csv", index=False)
    data = load(DataSpec(source=str(tmp_path), group_column="who"), seed=0)
    assert has_note(data, f"The {part} part has no group in its rows", "--group-column")


def test_other_columns_of_labels_are_noted_and_named_where_the_label_is_constant(tmp_path):
    labels = ["a", "b"] * 80
    frame = rows_of(["news"] * N, sentiment=labels).rename(columns={"label": "category"})
    with pytest.raises(
        DataError,
        match=r"category has only \['news'\] in train; .* is it sentiment\? Name it with --label-column\.$",
    ):
        read(tmp_path / "rows.csv", frame)
    frame["category"] = labels[1:] + labels[:1]
    data = read(tmp_path / "rows.csv", frame)
    assert data.label_column == "category"
    assert "sentiment has a usual name of labels too; name the label with --label-column." in data.notes
    assert not has_note(read(tmp_path / "rows.csv", frame, label_column="category"), "usual name")


def test_a_label_that_train_lacks_is_told_with_its_rows_and_a_near_one(tmp_path):
    rows_of(["a", "b"] * 80).to_csv(tmp_path / "train.csv", index=False)
    rows_of(["a", "b", "A", "b", "A"], first=1000).to_csv(tmp_path / "validation.csv", index=False)
    with pytest.raises(
        DataError,
        match=r"^The validation part has label 'A' in row 3 and 1 more, which train lacks \(train has 'a'\);",
    ):
        load(DataSpec(source=str(tmp_path)), seed=0)


@pytest.mark.parametrize(
    ("written", "remedy"),
    [
        ("{:d}%", r"check the label column\.$"),
        ("{:d}", r"or set data\.label_kind=number to learn numbers\.$"),
        ("word {:d}", r"check the label column\.$"),
    ],
)
def test_advice_for_too_many_labels_fits_how_they_are_written(tmp_path, written, remedy):
    with pytest.raises(DataError, match=remedy):
        read(
            tmp_path / "rows.csv",
            rows_of([written.format(i) for i in range(N)]),
        )
