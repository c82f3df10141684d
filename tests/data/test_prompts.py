"""Prompts with completions: what keeps them in one split, what counts as a duplicate, and plain texts."""

from __future__ import annotations

import json

import pytest

from autopeft.data import load, read_language
from autopeft.errors import DataError
from autopeft.records import DataSpec


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path, **spec):
    return load(DataSpec(source=str(path), **spec), seed=0, read_rows=read_language)


def test_prompts_with_several_completions_stay_in_one_split(tmp_path):
    rows = [{"prompt": f"p{i // 3}", "completion": f"c{i}"} for i in range(150)]
    write(tmp_path / "train.jsonl", [*rows, rows[7]])
    write(tmp_path / "test.jsonl", [{"prompt": "p3", "completion": "x"}, {"prompt": "p3", "completion": "y"}])
    data = read(tmp_path)
    splits = (data.train, data.search, data.confirm, data.test)
    prompts = [set(split.inputs) for split in splits]
    assert data.target.kind == "completion" and len(data.test.inputs) == 2
    assert all(not prompts[i] & prompts[j] for i in range(4) for j in range(i))
    assert sum(len(split.inputs) for split in splits) == 150 - 3 + 2
    assert data.duplicates_removed == 4


@pytest.mark.parametrize("n_prompts", [1, 2, 4])
def test_rows_of_a_few_instructions_are_cut_by_row(tmp_path, n_prompts):
    rows = [{"prompt": f"p{i % n_prompts}", "completion": f"c{i}"} for i in range(200)]
    data = read(write(tmp_path / "train.jsonl", rows))
    splits = (data.train, data.search, data.confirm)
    assert [len(split.inputs) for split in splits] == [100, 50, 50]
    assert all(len(set(split.inputs)) == n_prompts for split in splits)
    prompts = "1 prompt stands" if n_prompts == 1 else f"{n_prompts} prompts stand"
    assert [note for note in data.notes if note.startswith(f"{prompts} in 200 of 200 train rows: splits")]


def test_of_an_instruction_only_rows_with_the_same_completion_are_duplicates(tmp_path):
    rows = [{"prompt": "say it", "completion": f"c{i}"} for i in range(100)]
    held_out = [{"prompt": "Say it", "completion": f"c{i}"} for i in range(95, 140)]
    write(tmp_path / "train.jsonl", [*rows, {"prompt": "what?", "completion": "x"}])
    write(tmp_path / "validation.jsonl", [*held_out, {"prompt": "what?", "completion": "y"}])
    data = read(tmp_path)
    assert len(data.train.inputs) + len(data.search.inputs) == 95 and len(data.confirm.inputs) == 46
    assert data.duplicates_removed == 6


def test_prompts_that_all_stand_in_validation_are_refused_as_such(tmp_path):
    write(tmp_path / "train.jsonl", [{"prompt": f"p{i}", "completion": "a"} for i in range(40)])
    write(tmp_path / "validation.jsonl", [{"prompt": f"p{i}", "completion": "b"} for i in range(40)])
    with pytest.raises(DataError, match=r"^All 40 train prompts also stand in validation and were removed"):
        read(tmp_path)


@pytest.mark.parametrize("columns", [("prompt", "completion"), ("text",)])
def test_texts_that_look_like_lists_stay_texts(tmp_path, columns):
    rows = [dict.fromkeys(columns, f"[{i}, 1]") for i in range(60)]
    data = read(write(tmp_path / "a.jsonl", rows))
    splits = (data.train, data.search, data.confirm)
    texts = [text for split in splits for (text,) in split.inputs]
    assert sorted(texts) == sorted(f"[{i}, 1]" for i in range(60))
    if len(columns) == 2:
        assert texts == [label for split in splits for label in split.labels]
