"""Datasets of every format, found columns, splits that share no text, and one error per way to go wrong."""

from __future__ import annotations

import socket
from collections import Counter
from itertools import combinations
from unittest.mock import Mock

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
        frame.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
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


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".json", ".jsonl", ".parquet"])
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
    write(tmp_path / "test.tsv", make_rows(30, start=2000))
    write(tmp_path / "notes.csv", make_rows(5))
    data = read(tmp_path)
    assert sizes(data) == (150, 50, 40, 30)
    assert data.test.inputs == tuple((row["text"],) for row in make_rows(30, start=2000))
    assert "Left out, as no split is in the name: notes.csv." in data.notes


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
    assert "Left out labels that no train row has: new." in saved.notes
    assert "Left out the test part: no row of 40 has a label." in with_test.notes


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
    assert {"Dropped 1 train row without a label.", "Dropped 1 train row without text."} <= set(data.notes)


@pytest.mark.parametrize("label", [{}, {"label": -1}, {"label": None}])
def test_test_part_without_labels_is_left_out(tmp_path, label):
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
        (("sentence", "question", "label_space"), {}, ("question", "sentence"), "label_space"),
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


def test_local_files_need_no_network_and_leave_nothing_behind(tmp_path, monkeypatch, capfd):
    resolve = Mock(side_effect=socket.gaierror("no network"))
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    write(tmp_path / "train.csv", make_rows())
    write(tmp_path / "test.json", make_rows(start=500))
    read(tmp_path)
    assert not resolve.called  # `datasets` would swallow the error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["test.json", "train.csv"]
    assert capfd.readouterr() == ("", "")
    assert not datasets.are_progress_bars_disabled()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.parquet", b"not parquet at all", "is no UTF-8 parquet file: Parquet magic"),
        ("a.csv", bytes(range(256)) * 20, "is no UTF-8 csv file: "),
        ("a.csv", "text,label\n\u65e5\u672c\u3002,1\n".encode("shift-jis"), "Save it as UTF-8"),
        ("a.csv", "text,label\nfine,1\n".encode("utf-16"), "Save it as UTF-8"),
        ("a.csv", b"text,label\ncaf\xc3\xa9,1\ncaf\xe9,1\n", "Save it as UTF-8"),  # damaged, not Latin
        (
            "a.csv",
            b"text,label\nyes, it is,1\n",
            r"has 3 cells in line 2 \('yes, it is,1'\) and 2 in its",
        ),
        ("a.csv", b"text,label\n", "a.csv holds no rows"),
        ("a.json", b'{"text": "a", "lab', "a.json has no whole JSON value in line 1 .*: Unterminated"),
        (
            "a.jsonl",
            b'{"text": "a", "label": 1}\nhello\n',
            r"a\.jsonl has no whole JSON value in line 2 \('hello'\): Expecting",
        ),
        ("a.jsonl", b"", "it is blank"),
        ("a.json", b"[]", "holds no rows"),
        ("a.xlsx", b"PK", "has the suffix '.xlsx'; convert it to one of .csv"),
    ],
)
def test_unreadable_file_is_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read(tmp_path / name)


@pytest.mark.parametrize(
    ("rows", "spec", "message"),
    [
        (make_rows(29), {}, "Train has 20 rows to learn from beside 9 for confirm; 30 are needed"),
        (make_rows(), {"max_examples": 10}, "data.max_examples is 10; 30 are needed"),
        (
            make_rows(labels=tuple(f"id {i}" for i in range(120))),
            {},
            "keeps each of its 120 labels; check that the label column holds classes",
        ),
        (make_rows(labels=("pos",)), {}, r"only \['pos'\] in train; at least 2"),
        (make_rows(labels=(None,)), {}, "No train row of 120 has a label in column label"),
        (
            [{"text": ["a", "b"], "label": i % 2} for i in range(40)],
            {"text_columns": ("text",)},
            "one text or label",
        ),
        ([{"words": "a b", "mood": "x"}] * 40, {}, "no label column among words and mood"),
        ([{"one": "a", "two": "b", "label": "x"}] * 40, {}, "no text column among one, two and label"),
        ([{"text": text, "label": 1} for text in "a" * 9 + " " * 31], {}, "31 of 40 train rows have no text"),
        (make_rows(), {"text_columns": ("label",), "label_column": "label"}, "other than the label label"),
    ],
)
def test_unusable_rows_are_refused(tmp_path, rows, spec, message):
    with pytest.raises(DataError, match=message):
        read_rows(tmp_path, rows, **spec)


@pytest.mark.parametrize("spec", [{"text_columns": ("txet",)}, {"label_column": "lable"}])
def test_unknown_column_lists_the_columns_and_the_nearest(tmp_path, spec):
    with pytest.raises(UnknownNameError, match=r"known: label, text\. Did you mean '(text|label)'"):
        read_rows(tmp_path, make_rows(), **spec)


def test_faulty_folders_are_refused(tmp_path):
    with pytest.raises(DataError, match="holds no data file"):
        read(tmp_path)
    write(tmp_path / "test.csv", make_rows(start=500, labels=("neg", "new")))
    with pytest.raises(DataError, match=r"no train part, only test\.csv"):
        read(tmp_path)
    write(tmp_path / "train.csv", make_rows())
    with pytest.raises(DataError, match=r"The test part has label 'new' in row .*, which train lacks"):
        read(tmp_path)
    write(tmp_path / "test.csv", [{"words": "a", "label": "neg"}])
    with pytest.raises(
        DataError, match=r"A test table \(.*test.*\) lacks column text; it has words and label"
    ):
        read(tmp_path)
    (tmp_path / "state.json").write_text("broken")
    with pytest.raises(DataError, match="is no saved dataset"):
        read(tmp_path)


@pytest.mark.parametrize("source", ["{}/train.cvs", "{}/gone/train.csv", "train.csv", "./train", "../x/y/z"])
def test_missing_path_is_refused_without_asking_the_hub(tmp_path, source):
    write(tmp_path / "train.csv", make_rows())
    with pytest.raises(DataError, match=r"does not exist\..*Check the spelling") as caught:
        read(source.format(tmp_path))
    assert ("Near names there: train.csv." in str(caught.value)) == source.endswith("cvs")


def test_unreachable_hub_is_reported_at_once(tmp_path, monkeypatch):
    resolve = Mock(side_effect=socket.gaierror("no network"))
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "sentimants.csv", make_rows())
    with pytest.raises(DataError, match=r"Neither the hub .* 'sentiments'\. Near names there: sentimants"):
        read("sentiments")
    assert resolve.call_count <= 2  # one request; left alone, `load_dataset` makes six in 23 s


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
    listed = read(write(tmp_path / "t.csv", make_rows(labels=("a;b", "c"))), label_kind="classes")
    assert listed.label_names == ("a", "b", "c")
    few = read(write(tmp_path / "f.csv", make_rows(labels=(0, 1, 2))), label_kind="number")
    assert (few.label_space.kind, set(few.train.labels)) == ("number", {0.0, 1.0, 2.0})


@pytest.mark.parametrize("bad", ["nan", "n/a", "1e999"])
def test_target_that_is_no_number_is_refused_with_its_row(tmp_path, bad):
    rows = make_rows(labels=tuple(f"{0.07 * i:.2f}" for i in range(100)))
    rows[17]["label"] = bad
    with pytest.raises(DataError, match=f"label holds '{bad}' in row 18 of train: 1 of 120 labels "):
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
    assert "Removed 4 rows whose group stands in a more precious split." in data.notes
    assert min(map(len, groups.values())) >= 10


@pytest.mark.parametrize("as_text", [str, lambda day: str(pd.Timestamp(2020, 1, 1) + pd.Timedelta(days=day))])
def test_latest_rows_are_cut_by_time(tmp_path, as_text):
    days = np.random.default_rng(0).permutation(200).tolist()
    rows = [row | {"day": as_text(day)} for row, day in zip(make_rows(200), days, strict=True)]
    data = read(write(tmp_path / "rows.csv", rows), time_column="day")
    by_text = {row["text"]: day for row, day in zip(rows, days, strict=True)}
    cut_days = [sorted(by_text[text] for (text,) in getattr(data, split).inputs) for split in SPLITS[:3]]
    assert cut_days == [list(range(100)), list(range(100, 150)), list(range(150, 200))]
