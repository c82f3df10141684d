"""What a source names: files and folders sorted into splits, missing files, and the hub, which is faked."""

from __future__ import annotations

import socket
from unittest.mock import Mock

import datasets
import pandas as pd
import pytest

from autopeft.data import load
from autopeft.errors import DataError
from autopeft.types import DataSpec

SPLITS = ("train", "search", "confirm", "test")


def write(path, n, *, start=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"text": f"sentence {i}", "label": "ab"[i % 2]} for i in range(start, start + n)]
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def read(source):
    return load(DataSpec(source=str(source)), seed=0)


def sizes(data):
    return tuple(len(getattr(data, split).inputs) for split in SPLITS)


def test_files_without_split_names_are_all_train_with_a_note(tmp_path):
    write(tmp_path / "a.csv", 100)
    assert not any("split word" in note for note in read(tmp_path).notes)
    write(tmp_path / "contest.csv", 100, start=100)
    for data in (read(tmp_path), read(f"{tmp_path / 'a.csv'},{tmp_path / 'contest.csv'}")):
        assert sizes(data) == (100, 50, 50, 0)
        assert any("split word" in note and "contest.csv" in note for note in data.notes)


@pytest.mark.parametrize("word", ["set", "data", "Dataset", "split", "ing", "ingset", "_set"])
def test_split_words_are_found_in_compound_names(tmp_path, word):
    write(tmp_path / f"train{word}.csv", 100)
    write(tmp_path / f"Test{word}.csv", 30, start=2000)
    write(tmp_path / f"dev{word.removeprefix('ing')}.csv", 40, start=1000)
    assert sizes(read(tmp_path)) == (67, 33, 40, 30)


def test_a_name_with_words_of_several_splits_is_left_out_with_a_note(tmp_path):
    write(tmp_path / "train.csv", 100)
    write(tmp_path / "train_test.csv", 40, start=100)
    write(tmp_path / "train_set_training.csv", 60, start=200)
    data = read(tmp_path)
    assert sum(sizes(data)) == 160
    assert any(note.startswith("Left out") and "train_test.csv" in note for note in data.notes)


def test_listed_files_are_sorted_by_their_own_names(tmp_path):
    train = write(tmp_path / "trainings" / "train.csv", 100)
    test = write(tmp_path / "trainings" / "test.csv", 30, start=500)
    assert sizes(read(f"{train}, {test}")) == (45, 22, 33, 30)
    with pytest.raises(DataError, match=r"tset\.csv does not exist.*'test\.csv'"):
        read(f"{train},{tmp_path}/trainings/tset.csv")


def test_a_clone_of_a_hub_dataset_has_its_files_in_data(tmp_path):
    write(tmp_path / "en" / "data" / "train-00000-of-00001.csv", 100)
    (tmp_path / "en" / "README.md").write_text("about")
    assert read(tmp_path / "en").fingerprint == read(tmp_path / "en" / "data").fingerprint


def test_faulty_folders_are_refused(tmp_path):
    with pytest.raises(DataError, match="no data file"):
        read(tmp_path)
    write(tmp_path / "test.csv", 40)
    with pytest.raises(DataError, match=r"no train split.*test\.csv"):
        read(tmp_path)
    (tmp_path / "state.json").write_text("broken")
    with pytest.raises(DataError, match="cannot be read"):
        read(tmp_path)


@pytest.mark.parametrize(
    "source", ["{}/train.cvs", "{}/gone/train.csv", "train.csv", "./train", "../x/y/z", "https://a.b/c"]
)
def test_missing_path_is_refused_without_asking_the_hub(tmp_path, source):
    write(tmp_path / "train.csv", 100)
    with pytest.raises(DataError, match="does not exist") as caught:
        read(source.format(tmp_path))
    assert ("'train.csv'" in str(caught.value)) == source.endswith("cvs")


def test_local_files_need_no_network_and_leave_nothing_behind(tmp_path, monkeypatch, capfd):
    resolve = Mock(side_effect=socket.gaierror("no network"))
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    write(tmp_path / "train.csv", 100)
    write(tmp_path / "test.csv", 40, start=500)
    read(tmp_path)
    assert not resolve.called  # `datasets` would swallow the error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["test.csv", "train.csv"]
    assert capfd.readouterr() == ("", "")
    assert not datasets.are_progress_bars_disabled()


def test_splits_and_configuration_of_a_hub_dataset_are_read(monkeypatch):
    texts = [f"sentence {i}" for i in range(160)]
    table = datasets.Dataset.from_dict({"text": texts, "label": ["a", "b"] * 80})
    tables = {"train": table.select(range(100)), "validation": table.select(range(100, 160))}
    fake = Mock(return_value=datasets.DatasetDict(tables))
    monkeypatch.setattr(datasets, "load_dataset", fake)
    assert sizes(read("some/corpus:en")) == (67, 33, 60, 0)
    fake.assert_called_once_with("some/corpus", name="en")


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (ValueError("Config name is missing.\nPick one of: ['a', 'b']"), "Pick one .* some/corpus:NAME"),
        (ConnectionError("no network"), "no network"),
        (lambda *_, **__: {"test": None}, "no train split"),
    ],
)
def test_a_hub_dataset_that_cannot_be_used_is_refused(monkeypatch, answer, word):
    monkeypatch.setattr(datasets, "load_dataset", Mock(side_effect=answer))
    with pytest.raises(DataError, match=word) as caught:
        read("some/corpus")
    assert "\n" not in str(caught.value)
