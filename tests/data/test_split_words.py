"""Which part of a dataset a file is, by the split word in its name, and folders without a data file."""

from __future__ import annotations

import pandas as pd
import pytest

from autopeft.data import load
from autopeft.types import DataSpec

SPLITS = ("train", "search", "confirm", "test")


def write(path, n, *, start=0):
    rows = [{"text": f"sentence {i}", "label": "ab"[i % 2]} for i in range(start, start + n)]
    pd.DataFrame(rows).to_csv(path, index=False)


def read(source):
    return load(DataSpec(source=str(source)), seed=0)


def sizes(data):
    return tuple(len(getattr(data, split).inputs) for split in SPLITS)


def test_folder_without_split_names_is_all_train_with_a_note(tmp_path):
    write(tmp_path / "a.csv", 100)
    assert not any("split word" in note for note in read(tmp_path).notes)
    write(tmp_path / "contest.csv", 100, start=100)
    note = (
        "No file name has a split word (train, validation, test): a.csv and contest.csv are all train rows."
    )
    listed = f"{tmp_path / 'a.csv'},{tmp_path / 'contest.csv'}"
    for data in (read(tmp_path), read(listed)):
        assert sizes(data) == (100, 50, 50, 0)
        assert note in data.notes
    for i in range(5):
        write(tmp_path / f"latest_{i}.csv", 10, start=200 + 10 * i)
    assert any(
        "a.csv, contest.csv, latest_0.csv, latest_1.csv and 3 more are" in n for n in read(tmp_path).notes
    )


@pytest.mark.parametrize("word", ["set", "data", "Dataset", "split", "ing", "ing_set"])
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
    assert "Left out, as words of several splits are in train_test.csv; keep one of them." in data.notes
    assert "The train part is train.csv and train_set_training.csv." in data.notes
