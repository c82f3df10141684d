"""Datasets of every format, found columns, splits that share no text, and one error per way to go wrong."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import datasets
import numpy as np
import pandas as pd
import pytest

from autopeft.data import load
from autopeft.errors import DataError, UnknownNameError
from autopeft.types import DataSpec

SPLITS = ("train", "search", "confirm", "test")


def make_rows(n=120, *, start=0, labels=("neg", "pos")):
    return [{"text": f"sentence {i}", "label": labels[i % len(labels)]} for i in range(start, start + n)]


def write(path, rows):
    frame = pd.DataFrame(rows)
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    elif path.suffix in (".json", ".jsonl"):
        frame.to_json(path, orient="records", lines=path.suffix == ".jsonl")
    else:
        frame.to_csv(path, index=False)
    return path


def read(source, *, seed=0, **spec):
    return load(DataSpec(source=str(source), **spec), seed=seed)


def read_rows(path, rows, **spec):
    return read(write(path / "rows.jsonl", rows), **spec)


def sizes(data):
    return tuple(len(getattr(data, split).inputs) for split in SPLITS)


def pairs(data):
    splits = [getattr(data, split) for split in SPLITS]
    rows = [row for split in splits for row in zip(split.inputs, split.labels, strict=True)]
    return {texts: data.label_names[label] for texts, label in rows}


def test_sample_dataset_has_the_splits_its_attribution_states():
    data = load(DataSpec(), seed=0)
    assert sizes(data) == (3998 - 600, 600, 1000, 1000)  # 600 is 15 % of 3,998, rounded up
    assert (data.name, len(data.label_names)) == ("clinc_domain10", 10)
    assert len(data.fingerprint) == 16


@pytest.mark.parametrize("suffix", [".csv", ".json", ".jsonl", ".parquet"])
def test_every_format_gives_the_same_rows_and_fingerprint(tmp_path, suffix):
    rows = [*make_rows(), {"text": "007", "label": "pos"}, {"text": "NA", "label": "neg"}]
    data = read(write(tmp_path / f"odd [1] *{suffix}", rows))
    assert pairs(data) == {(row["text"],): row["label"] for row in rows}
    assert data.fingerprint == read(write(tmp_path / "other.csv", rows)).fingerprint


def test_all_rows_are_those_of_the_file_but_for_test(tmp_path):
    rows, tested = make_rows(), make_rows(30, start=120)
    write(tmp_path / "train.csv", rows)
    write(tmp_path / "test.csv", tested)
    data = read(tmp_path).with_all_rows()
    labels = [data.label_names[label] for label in data.train.labels]
    trained = sorted(zip((text for (text,) in data.train.inputs), labels, strict=True))
    assert trained == sorted((row["text"], row["label"]) for row in rows)
    assert sizes(data)[3] == 30 and not set(data.train.inputs) & set(data.test.inputs)


@pytest.mark.parametrize("key", ["label", "text"])
def test_fingerprint_changes_with_one_cell(tmp_path, key):
    rows = make_rows()
    changed = [*rows[:-1], {**rows[-1], key: "neg"}]
    assert read_rows(tmp_path, rows).fingerprint != read_rows(tmp_path, changed).fingerprint


@pytest.mark.parametrize("word", ["validation", "val", "dev", "eval"])
def test_folder_with_split_names_keeps_the_users_validation_and_test(tmp_path, word):
    write(tmp_path / "train-00000-of-00002.csv", make_rows(100))
    write(tmp_path / "train-00001-of-00002.parquet", make_rows(100, start=100))
    write(tmp_path / f"my_{word}.jsonl", make_rows(40, start=1000))
    write(tmp_path / "test.csv", make_rows(30, start=2000))
    write(tmp_path / "notes.csv", make_rows(5))
    data = read(tmp_path)
    assert sizes(data) == (150, 50, 40, 30)
    assert data.test.inputs == tuple((row["text"],) for row in make_rows(30, start=2000))
    assert any(note.startswith("Left out") and "notes.csv" in note for note in data.notes)


@pytest.mark.parametrize(("n", "confirm", "search"), [(90, 30, 20), (400, 60, 51), (15400, 2000, 2000)])
def test_cuts_from_train_alone_follow_the_rule_of_size(tmp_path, n, confirm, search):
    assert sizes(read_rows(tmp_path, make_rows(n))) == (n - confirm - search, search, confirm, 0)


def test_saved_datasets_keep_their_class_names_and_lose_an_unlabelled_test(tmp_path):
    label = datasets.ClassLabel(names=["pos", "neg", "new"])
    features = datasets.Features({"text": datasets.Value("string"), "label": label})
    train = datasets.Dataset.from_list(make_rows(labels=(0, 1)), features=features)
    test = datasets.Dataset.from_list(make_rows(40, start=500, labels=(-1,)), features=features)
    train.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict(train=train, test=test).save_to_disk(str(tmp_path / "two"))
    train.to_parquet(str(tmp_path / "three.parquet"))
    saved, with_test, parquet = (read(tmp_path / name) for name in ("one", "two", "three.parquet"))
    assert saved.label_names == parquet.label_names == ("pos", "neg")
    assert saved.fingerprint == with_test.fingerprint == parquet.fingerprint


@pytest.mark.parametrize(
    ("labels", "names", "first"),
    [
        ((10, 2, 0), ("0", "2", "10"), "10"),
        ((-1, 1), ("-1", "1"), "-1"),
        ((1.0, 0.0), ("0", "1"), "1"),
        ((True, False), ("False", "True"), "True"),
        (("b", "B", "a"), ("B", "a", "b"), "b"),
    ],
)
def test_labels_become_sorted_names(tmp_path, labels, names, first):
    data = read(write(tmp_path / "rows.parquet", make_rows(labels=labels)))
    assert data.label_names == names
    assert pairs(data)[("sentence 0",)] == first
    assert data.fingerprint == read(write(tmp_path / "rows.csv", make_rows(labels=labels))).fingerprint


def test_rows_without_label_or_text_are_dropped_with_a_note(tmp_path):
    rows = [*make_rows(labels=(0, 1)), {"text": "x", "label": None}, {"text": "  ", "label": 1}]
    data = read(write(tmp_path / "rows.csv", rows))
    assert (data.label_names, sum(sizes(data))) == (("0", "1"), 120)
    assert {
        "Dropped 1 train row without a value in column label.",
        "Dropped 1 train row without an input.",
    } <= set(data.notes)


@pytest.mark.parametrize("label", [{}, {"label": -1}, {"label": None}])
def test_test_split_without_labels_is_left_out(tmp_path, label):
    write(tmp_path / "train.csv", make_rows())
    write(tmp_path / "test.csv", [{"text": "unlabelled"} | label])
    assert read(tmp_path).test.inputs == ()


@pytest.mark.parametrize(
    ("columns", "spec", "texts", "label"),
    [
        (("title", "text", "label"), {}, ("title", "text"), "label"),
        (("caption", "text", "label"), {}, ("text",), "label"),
        (("passage", "Question", "label"), {}, ("Question", "passage"), "label"),
        (("hypothesis", "premise", "text", "label"), {}, ("premise", "hypothesis"), "label"),
        (("sentence", "question", "target"), {}, ("question", "sentence"), "target"),
        (("Words", "Sentiment"), {}, ("Words",), "Sentiment"),
        (("What was said", "Date", "Sentiment"), {}, ("What was said",), "Sentiment"),
        (("text", "words", "label"), {"text_columns": ("words",)}, ("words",), "label"),
        (("text", "label", "mood"), {"label_column": "mood"}, ("text",), "mood"),
    ],
)
def test_columns_are_found_by_their_usual_names(tmp_path, columns, spec, texts, label):
    rows = [{name: f"{name} {i}" for name in columns} | {"id": i, label: "ab"[i % 2]} for i in range(60)]
    data = read(write(tmp_path / "rows.csv", rows), **spec)
    assert (data.text_columns, data.label_column) == (texts, label)
    assert pairs(data)[tuple(f"{name} 7" for name in texts)] == "b"


def test_cuts_keep_the_shares_of_the_labels(tmp_path):
    data = read_rows(tmp_path, make_rows(1000, labels=("a",) * 7 + ("b",) * 2 + ("c",)))
    for split in (data.train, data.search, data.confirm):
        shares = np.bincount(split.labels) / len(split.labels)
        np.testing.assert_allclose(shares, [0.7, 0.2, 0.1], atol=1 / len(split.labels))


def test_labels_too_rare_to_stratify_stay_in_train(tmp_path):
    alone = [{"text": f"alone {i}", "label": f"rare {i}"} for i in range(40)]
    data = read_rows(tmp_path, [*make_rows(), *alone])
    assert {(row["text"],) for row in alone} <= set(data.train.inputs)
    rare = [{"text": f"pair {i}", "label": f"rare {i // 2}"} for i in range(120)]
    assert any("not stratified" in note for note in read_rows(tmp_path, [*make_rows(200), *rare]).notes)


def test_a_split_without_a_common_label_is_named_and_one_without_a_rare_label_is_not(tmp_path):
    write(tmp_path / "train.csv", [*make_rows(200), *make_rows(4, start=500, labels=("rare",))])
    write(tmp_path / "validation.csv", make_rows(30, start=1000, labels=("neg",)))
    write(tmp_path / "test.csv", make_rows(30, start=2000))
    notes = [note.partition(",")[0] for note in read(tmp_path).notes if note.startswith("Labels")]
    assert notes == ["Labels pos do not occur in the 30 confirm rows"]


def test_same_seed_gives_the_same_splits_and_another_seed_does_not(tmp_path):
    first, again, other = (read_rows(tmp_path, make_rows(), seed=seed) for seed in (5, 5, 6))
    assert first == again
    assert set(first.search.inputs) != set(other.search.inputs)
    assert pairs(first) == pairs(other)


def test_no_two_splits_share_a_text(tmp_path):
    test, confirm = make_rows(40, start=2000), make_rows(40, start=1000)
    write(tmp_path / "test.csv", [*test, test[0]])
    write(tmp_path / "validation.csv", [*confirm, {"text": "SENTENCE  2001", "label": "neg"}])
    planted = [{"text": f" Sentence {i}\t", "label": "pos"} for i in (2002, 1003, 3, 3)]
    write(tmp_path / "train.csv", [*make_rows(200), *planted])
    data = read(tmp_path)
    inputs = {split: getattr(data, split).inputs for split in SPLITS}
    keys = {split: {" ".join(text.lower().split()) for (text,) in texts} for split, texts in inputs.items()}
    assert all(not keys[a] & keys[b] for a, b in combinations(SPLITS, 2))
    assert sizes(data) == (150, 50, 40, 41)
    assert data.duplicates_removed == 5 and any("Removed 5 rows" in note for note in data.notes)


def test_max_examples_caps_train_and_search_and_keeps_every_label(tmp_path):
    rows = [*make_rows(1000), *make_rows(3, start=1000, labels=("rare",))]
    data = read_rows(tmp_path, rows, max_examples=100)
    assert sizes(data) == (67, 33, 151, 0)
    assert Counter(data.train.labels).keys() == {0, 1, 2}
    assert any("max_examples 100" in note for note in data.notes)


@pytest.mark.parametrize(
    ("rows", "spec", "word"),
    [
        (make_rows(29), {}, "30 are needed"),
        (make_rows(2), {}, "occurs once"),
        ([{"doc": {"a": "x"}, "label": i % 2} for i in range(40)], {}, r"doc \(objects\)"),
        ([{"doc": f"a long text {i}", "close": 0.5 + i % 3} for i in range(40)], {}, "the numbers in close"),
        (make_rows(), {"max_examples": 10}, "max-examples is 10"),
        (make_rows(labels=tuple(f"id {i}" for i in range(120))), {}, "120 labels .* once"),
        (make_rows(labels=("pos",)), {}, r"only \['pos'\]"),
        (make_rows(labels=(None,)), {}, "column label"),
        ([{"text": ["a", "b"], "label": i % 2} for i in range(40)], {"text_columns": ("text",)}, "one text"),
        ([{"words": "a b", "mood": "x"}] * 40, {}, "no label column"),
        ([{"one": "a", "two": "b", "label": "x"}] * 40, {}, "no text column"),
        (make_rows(), {"text_columns": ("label",), "label_column": "label"}, "--text-column"),
    ],
)
def test_unusable_rows_are_refused(tmp_path, rows, spec, word):
    with pytest.raises(DataError, match=word):
        read_rows(tmp_path, rows, **spec)


@pytest.mark.parametrize("spec", [{"text_columns": ("txet",)}, {"label_column": "lable"}])
def test_unknown_column_lists_the_columns_and_the_nearest(tmp_path, spec):
    with pytest.raises(UnknownNameError, match=r"'(text|label)'"):
        read_rows(tmp_path, make_rows(), **spec)


def test_splits_that_do_not_fit_train_are_refused(tmp_path):
    write(tmp_path / "train.csv", make_rows())
    write(tmp_path / "test.csv", make_rows(start=500, labels=("neg", "new")))
    with pytest.raises(DataError, match="label 'new' in row 2"):
        read(tmp_path)
    write(tmp_path / "test.csv", [{"words": "a", "label": "neg"}])
    with pytest.raises(DataError, match=r"test\.csv.* no column text"):
        read(tmp_path)


def test_numbers_become_a_regression_target_and_lists_several_classes(tmp_path):
    scores = [round(0.05 * i, 2) for i in range(60)]
    data = read(write(tmp_path / "rows.csv", make_rows(labels=tuple(scores))))
    assert (data.label_space.kind, data.label_names) == ("number", ("label",))
    numbers = np.array([*data.train.labels, *data.search.labels, *data.confirm.labels])
    assert (data.label_space.mean, data.label_space.std) == pytest.approx((numbers.mean(), numbers.std()))
    truth = {(f"sentence {i}",): scores[i % 60] for i in range(120)}
    assert all(
        truth[text] == label
        for split in SPLITS
        for text, label in zip(getattr(data, split).inputs, getattr(data, split).labels, strict=True)
    )
    several = read_rows(tmp_path, make_rows(labels=(["b", "a"], [], ["c"])))
    assert (several.label_space.kind, several.label_names) == ("classes", ("a", "b", "c"))
    assert set(several.train.labels) == {(1, 0), (), (2,)}
    few = read(write(tmp_path / "f.csv", make_rows(labels=(0, 1, 2))), label_kind="number")
    assert (few.label_space.kind, set(few.train.labels)) == ("number", {0.0, 1.0, 2.0})


def test_the_row_that_an_error_names_counts_rows_that_are_dropped(tmp_path):
    rows = make_rows(labels=tuple(f"{0.07 * i:.2f}" for i in range(100)))
    rows[3]["label"] = rows[4]["text"] = None
    write(tmp_path / "train.csv", rows)
    rows[9]["label"] = "many"
    write(tmp_path / "test.csv", rows)
    with pytest.raises(DataError, match="'many' in row 10 of test"):
        read(tmp_path)


@pytest.mark.parametrize("bad", ["nan", "n/a", "1e999"])
def test_target_that_is_no_number_is_refused_with_its_row(tmp_path, bad):
    rows = make_rows(labels=tuple(f"{0.07 * i:.2f}" for i in range(100)))
    rows[17]["label"] = bad
    with pytest.raises(DataError, match=f"'{bad}' in row 18 of train"):
        read(write(tmp_path / "rows.csv", rows))


def test_groups_stay_together_and_in_one_split(tmp_path):
    rows = [row | {"who": f"w{i // 4}"} for i, row in enumerate(make_rows(400))]
    write(tmp_path / "train.csv", rows)
    write(tmp_path / "test.csv", [{"text": "other", "label": "neg", "who": "w3"}])
    data = read(tmp_path, group_column="who")
    who = {row["text"]: row["who"] for row in rows}
    groups = {split: {who[text] for (text,) in getattr(data, split).inputs} for split in SPLITS[:3]}
    assert all(not groups[a] & groups[b] for a, b in combinations(groups, 2))
    assert "w3" not in set.union(*groups.values())
    assert any(note.startswith("Removed 4 rows of groups") for note in data.notes)
    assert min(map(len, groups.values())) >= 10


def test_rows_that_occur_again_are_counted_and_too_few_rows_explained(tmp_path):
    data = read_rows(tmp_path, [*make_rows(), *make_rows(60)])
    assert any(note.startswith("Removed 60 rows") for note in data.notes)
    assert data.duplicates_removed == 60
    lost = [*make_rows(8, start=50, labels=(None,)), *({"text": t, "label": "pos"} for t in (" ", ""))]
    with pytest.raises(DataError, match=r"14 rows .* 8 .* without .*label.* 2 .* without an input.* 10 rows"):
        read_rows(tmp_path, [*make_rows(20), *lost, *make_rows(10)])


@pytest.mark.parametrize("columns", [("question", "passage"), ("question", "answer"), ("title", "content")])
def test_both_texts_of_a_row_are_read(tmp_path, columns):
    """As BoolQ, WikiQA and Amazon's reviews have them: many rows have the same first text."""
    rows = [{columns[1]: f"text {i}", columns[0]: f"why {i // 10}", "label": "ab"[i % 2]} for i in range(100)]
    data = read_rows(tmp_path, rows)
    assert data.text_columns == columns and data.duplicates_removed == 0


def test_a_text_with_titles_that_may_be_missing_is_read_alone(tmp_path):
    rows = [row | {"title": f"title {i}" if i % 3 else ""} for i, row in enumerate(make_rows())]
    assert read_rows(tmp_path, rows).text_columns == ("text",)


def test_a_class_that_duplicates_take_away_is_refused(tmp_path):
    rows = [row | {"text": "the same"} if row["label"] == "pos" else row for row in make_rows()]
    with pytest.raises(DataError, match="--text-column"):
        read_rows(tmp_path, [{"text": "the same", "label": "neg"}, *rows])
