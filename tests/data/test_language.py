"""Rows for language models: their columns, prompts that stay in one split, and duplicates."""

from __future__ import annotations

import json

import pytest

from autopeft.data import load, read_language
from autopeft.errors import DataError
from autopeft.types import DataSpec


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
    assert data.label_space.kind == "completion" and len(data.test.inputs) == 2
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
    assert any(note.startswith("200 of 200 train rows have the same") for note in data.notes)


def test_of_an_instruction_only_rows_with_the_same_completion_are_duplicates(tmp_path):
    rows = [{"prompt": "say it", "completion": f"c{i}"} for i in range(100)]
    held_out = [{"prompt": "Say it", "completion": f"c{i}"} for i in range(95, 140)]
    write(tmp_path / "train.jsonl", [*rows, {"prompt": "what?", "completion": "x"}])
    write(tmp_path / "validation.jsonl", [*held_out, {"prompt": "what?", "completion": "y"}])
    data = read(tmp_path)
    assert len(data.train.inputs) + len(data.search.inputs) == 95 and len(data.confirm.inputs) == 46
    assert data.duplicates_removed == 6


@pytest.mark.parametrize("columns", [("prompt", "completion"), ("text",)])
def test_texts_that_look_like_lists_stay_texts(tmp_path, columns):
    rows = [dict.fromkeys(columns, f"[{i}, 1]") for i in range(60)]
    data = read(write(tmp_path / "a.jsonl", rows))
    splits = (data.train, data.search, data.confirm)
    texts = [text for split in splits for (text,) in split.inputs]
    assert sorted(texts) == sorted(f"[{i}, 1]" for i in range(60))
    if len(columns) == 2:
        assert texts == [label for split in splits for label in split.labels]


@pytest.mark.parametrize(
    ("row", "spec", "kind", "columns"),
    [
        ({"question": "q", "answer": "a", "id": 1}, {}, "completion", (("question",), "answer")),
        ({"prompt": "q", "completion": "c", "answer": "a"}, {}, "completion", (("prompt",), "completion")),
        ({"a": "q", "b": "c"}, {"text_columns": ("a",), "label_column": "b"}, "completion", (("a",), "b")),
        ({"text": "q", "prompt": "p"}, {}, "documents", (("text",), "")),
        ({"body": "q", "x": "p"}, {"text_columns": ("x",)}, "documents", (("x",), "")),
    ],
)
def test_columns_are_found(tmp_path, row, spec, kind, columns):
    rows = [{name: f"{value}{i}" for name, value in row.items()} for i in range(60)]
    data = read(write(tmp_path / "a.jsonl", rows), **spec)
    assert (data.label_space.kind, (data.text_columns, data.label_column)) == (kind, columns)


@pytest.mark.parametrize(
    ("prompt", "more", "completion"),
    [
        ("instruction", "input", "output"),
        ("instruction", "context", "response"),
        ("question", "context", "answer"),
    ],
)
def test_the_further_column_of_a_prompt_is_part_of_it(tmp_path, prompt, more, completion):
    """Rows with one instruction and several inputs are not duplicates; a blank input adds nothing."""
    rows = [
        {prompt: f"do {i // 3}", more: f"with {i}" if i % 3 else "", completion: "done"} for i in range(90)
    ]
    data = read(write(tmp_path / "rows.jsonl", rows))
    assert prompts(data) == sorted(f"do {i // 3}\n\nwith {i}" if i % 3 else f"do {i // 3}" for i in range(90))


def prompts(data):
    return sorted(text for split in (data.train, data.search, data.confirm) for (text,) in split.inputs)


def test_named_columns_of_a_prompt_are_joined_in_their_order(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"b": f"b {i}", "a": f"a {i}", "answer": "yes"} for i in range(90)])
    data = read(path, text_columns=("a", "b"), label_column="answer")
    assert prompts(data) == sorted(f"a {i}\n\nb {i}" for i in range(90))
    with pytest.raises(DataError, match="--label-column"):
        read(path, text_columns=("a", "b"))


@pytest.mark.parametrize("source", ["de", "en"])
def test_translations_are_prompts_and_completions_in_the_named_direction(tmp_path, source):
    path = write(
        tmp_path / "a.jsonl", [{"translation": {"de": f"de {i}", "en": f"en {i}"}} for i in range(90)]
    )
    columns = (
        {"text_columns": ("translation.en",), "label_column": "translation.de"} if source == "en" else {}
    )
    data = read(path, **columns)
    assert {text[:2] for text in prompts(data)} == {source}
    assert {label[:2] for label in data.train.labels} == {"de" if source == "en" else "en"}
