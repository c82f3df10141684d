"""Labels that may mean something else than what is learned of them: a note or the error says so."""

from __future__ import annotations

import datasets
import numpy as np
import pandas as pd
import pytest

from autopeft.data import load
from autopeft.errors import DataError
from autopeft.records import DataSpec

N = 160
SNLI = ([0, 1, 2] * 7 + [-1]) * 10


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


@pytest.mark.parametrize("none", [-1, -100])
@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_number_for_no_label_is_dropped_as_in_saved_datasets(tmp_path, suffix, none):
    labels = [none if label == -1 else label for label in SNLI]
    data = read(tmp_path / f"rows{suffix}", rows_of(labels))
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["0", "1", "2"])}
    )
    saved = datasets.Dataset.from_pandas(rows_of(labels), features=features)
    saved.save_to_disk(str(tmp_path / "saved"))
    assert data.label_names == ("0", "1", "2")
    assert data.fingerprint == load(DataSpec(source=str(tmp_path / "saved")), seed=0).fingerprint
    assert has_note(data, f"The label {none} in column label", "stands for none")
    assert "Dropped 10 train rows without a label." in data.notes


def test_a_number_for_no_label_is_dropped_in_every_part(tmp_path):
    rows_of(SNLI[:66], first=1000).to_csv(tmp_path / "validation.csv", index=False)
    rows_of(SNLI).to_csv(tmp_path / "train.csv", index=False)
    data = load(DataSpec(source=str(tmp_path)), seed=0)
    assert len(data.confirm.labels) == 63 and data.label_names == ("0", "1", "2")


@pytest.mark.parametrize("levels", [(-1, 1), (-1, 0, 1), (-2, -1, 0, 1, 2), (-1, 0, 1, 2)])
def test_minus_one_stays_where_it_is_a_class(tmp_path, levels):
    data = read(tmp_path / "rows.csv", rows_of([levels[i % len(levels)] for i in range(N)]))
    assert data.label_names == tuple(map(str, levels))
    assert has_note(data, "-1", "if it stands for none") is (levels == (-1, 0, 1, 2))


def test_a_rare_minus_one_is_learned_where_the_user_says_so_and_noted_in_doubt(tmp_path):
    path = tmp_path / "rows.csv"
    assert read(path, rows_of(SNLI), label_kind="class").label_names == ("-1", "0", "1", "2")
    data = read(path, rows_of([0, 1, 0, 1, 0, 1, 0, 1, -1] * 20))
    assert data.label_names == ("-1", "0", "1")
    assert has_note(data, "The label -1 in column label is learned as a class beside 0 to 1")


@pytest.mark.parametrize(
    ("levels", "is_noted"), [(range(101), True), (range(18, 91), True), (range(1, 21), False)]
)
def test_many_whole_numbers_without_gaps_get_a_note(tmp_path, levels, is_noted):
    data = read(tmp_path / "rows.csv", rows_of(list(levels) * 5))
    assert has_note(data, f"{len(levels)} different numbers", "set data.label_kind=number") is is_noted


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


def test_columns_of_zeros_and_ones_are_told_to_be_joined(tmp_path):
    flags = np.random.default_rng(0).integers(0, 2, (N, 3)).T
    frame = pd.DataFrame(
        {"comment_text": [f"comment {i}" for i in range(N)]}
        | dict(zip(("toxic", "insult", "threat"), flags, strict=True))
    )
    with pytest.raises(
        DataError, match=r"to learn which of toxic, insult, threat a row has write one column with lists"
    ):
        read(tmp_path / "rows.csv", frame, text_columns=("comment_text",))
    data = read(tmp_path / "rows.csv", frame, text_columns=("comment_text",), label_column="toxic")
    assert has_note(data, "insult and threat hold 0 and 1 as toxic does", "write one column with lists")


def test_labels_that_differ_in_case_alone_are_noted(tmp_path):
    data = read(tmp_path / "rows.csv", rows_of(["Spam", "spam", "ham", "ham"] * 40))
    assert has_note(data, "differ only in case ('Spam' and 'spam')")


@pytest.mark.parametrize(
    ("one", "other"),
    [("caf\u00e9", "cafe\u0301"), ("spam", "spam\u200b"), ("a b", "a\u00a0 b"), ("\uff21", "a")],
)
def test_labels_that_look_alike_are_noted_by_their_signs(tmp_path, one, other):
    data = read(tmp_path / "rows.csv", rows_of([one, other, "ham", "ham"] * 40))
    assert has_note(data, "look-alike characters", ascii(one), ascii(other))
    assert {one, other, "ham"} == set(data.label_names)


def test_a_word_for_none_that_is_learned_is_noted(tmp_path):
    data = read(tmp_path / "rows.csv", rows_of(["nan", "a", "b", "b"] * 40))
    assert has_note(data, "'nan' in column label is learned as a class of 40 rows", "leave these cells empty")
    assert not has_note(read(tmp_path / "rest.csv", rows_of(["none", "a"] * 80)), "stands for none")


def test_a_label_that_train_lacks_is_told_with_its_rows_and_a_near_one(tmp_path):
    rows_of(["a", "b"] * 80).to_csv(tmp_path / "train.csv", index=False)
    rows_of(["a", "b", "A", "b", "A"], first=1000).to_csv(tmp_path / "validation.csv", index=False)
    with pytest.raises(
        DataError,
        match=r"^The validation part has label 'A' in row 3 and 1 more, which train lacks \(train has 'a'\);",
    ):
        load(DataSpec(source=str(tmp_path)), seed=0)


@pytest.mark.parametrize(("sign", "is_noted"), [(",", True), ("|", True), (" and ", False)])
def test_labels_that_consist_of_others_are_noted(tmp_path, sign, is_noted):
    data = read(tmp_path / "rows.csv", rows_of(["a", "b", "c", f"a{sign}b", f"c{sign}a"] * 32))
    assert has_note(data, "consist of other labels", "data.label_kind=classes") is is_noted


@pytest.mark.parametrize(
    ("written", "remedy"),
    [
        ("{:.1f}%", r"or write plain numbers such as 1234\.5 to learn numbers\.$"),
        ("1.{:03d},56", r"or write plain numbers such as 1234\.5 to learn numbers\.$"),
        ("{:d}", r"or set data\.label_kind=number to learn numbers\.$"),
        ("word {:d}", r"check the label column\.$"),
    ],
)
def test_advice_for_too_many_labels_fits_how_they_are_written(tmp_path, written, remedy):
    with pytest.raises(DataError, match=remedy):
        read(
            tmp_path / "rows.csv",
            rows_of([written.format(i if "d" in written else i / 10) for i in range(N)]),
        )
