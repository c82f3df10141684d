"""Whether all of an input is read, and no row lands where it does not belong."""

from __future__ import annotations

import io
import json

import datasets
import numpy as np
import pytest
from PIL import Image

from autopeft.data import NoLabelColumnError, load, read_choices, read_images, read_texts
from autopeft.data.splits import OTHER_ROWS, other_rows_of
from autopeft.errors import DataError
from autopeft.plugins import discover
from autopeft.types import DataSpec

LONG = "some words about number"


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path, read_rows=read_texts, **spec):
    return load(DataSpec(source=str(path), **spec), seed=0, read_rows=read_rows)


@pytest.mark.parametrize(
    "columns",
    [
        ("question", "passage"),
        ("question", "answer"),
        ("title", "content"),
    ],
)
def test_both_texts_of_a_row_are_read(tmp_path, columns):
    """As BoolQ, WikiQA and Amazon's reviews have them: many rows have the same first text."""
    rows = [
        {columns[1]: f"{LONG} {i}", columns[0]: f"why {i // 10}", "label": "ab"[i % 2]} for i in range(100)
    ]
    data = read(write(tmp_path / "rows.jsonl", rows))
    assert data.text_columns == columns and data.duplicates_removed == 0


def test_a_text_with_titles_that_may_be_missing_is_read_alone_with_a_note(tmp_path):
    rows = [
        {"title": f"a good title {i}" if i % 3 else "", "text": f"{LONG} {i}", "label": "ab"[i % 2]}
        for i in range(100)
    ]
    data = read(write(tmp_path / "rows.jsonl", rows))
    assert data.text_columns == ("text",)
    assert any(note.startswith("Column title holds texts") for note in data.notes)
    named = read(tmp_path / "rows.jsonl", text_columns=("text",))
    assert not any("not read" in note for note in named.notes)


def test_a_class_that_duplicates_take_away_is_refused(tmp_path):
    rows = [{"text": "the same" if i % 2 else f"{LONG} {i}", "label": "ab"[i % 2]} for i in range(120)]
    rows.insert(0, {"text": "the same", "label": "a"})
    with pytest.raises(DataError, match="--text-column"):
        read(write(tmp_path / "rows.jsonl", rows))


def test_the_text_that_questions_are_about_follows_them(tmp_path):
    rows = [
        {"article": f"{LONG} {i}", "question": f"why {i}", "options": ["a", "b"], "answer": "AB"[i % 2]}
        for i in range(100)
    ]
    data = read(write(tmp_path / "rows.jsonl", rows), read_choices)
    assert all(row[0].split("\n\n")[1].startswith(LONG) for row in data.train.inputs)
    assert {row[0].split("\n\n")[0] for row in data.train.inputs} <= {f"why {i}" for i in range(100)}


@pytest.mark.parametrize(
    ("row", "rows"),
    [
        ({"messages": "x"}, "chats"),
        ({"instruction": "x", "output": "y"}, "prompts with completions"),
        ({"tokens": ["x"], "ner_tags": ["O"]}, "tokens with tags"),
    ],
)
def test_rows_of_another_task_are_known_by_their_columns(tmp_path, row, rows):
    with pytest.raises(NoLabelColumnError) as caught:
        read(write(tmp_path / "rows.jsonl", [row] * 50))
    assert caught.value.names == tuple(row)
    assert other_rows_of(caught.value.names).words == rows


def cell(name, i):
    """A cell as a column of this usual name holds them."""
    chat = [{"role": "user", "content": f"{LONG} {i}"}, {"role": "assistant", "content": "yes"}]
    lists = {"choices": ["a", "b"], "options": ["a", "b"], "tokens": ["a", f"b{i}"]}
    tags = {tag: ["O", "BX"[i % 2]] for tag in ("tags", "ner_tags", "pos_tags")}
    return {"messages": chat, "conversations": chat, **lists, **tags}.get(name, f"{LONG} {i}")


@pytest.mark.parametrize("rows", OTHER_ROWS)
def test_the_reader_of_other_rows_takes_them_and_is_that_of_a_task(tmp_path, rows):
    answers = [{"answer": "AB"[i % 2]} if "question" in rows.columns else {} for i in range(100)]
    table = [{name: cell(name, i) for name in sorted(rows.columns)} | answers[i] for i in range(100)]
    assert len(read(write(tmp_path / "rows.jsonl", table), rows.read_rows).search.inputs) > 20
    assert any(task.read_rows is rows.read_rows for task in discover("autopeft.tasks").values())


def png(shade):
    stream = io.BytesIO()
    noise = np.random.default_rng(shade).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    Image.fromarray(noise).save(stream, format="JPEG", quality=60)
    return stream.getvalue()


def test_bytes_in_a_column_without_a_type_are_images(tmp_path):
    table = datasets.Dataset.from_dict(
        {"image": [png(i) for i in range(60)], "label": [i % 2 for i in range(60)]}
    )
    table.to_parquet(str(tmp_path / "rows.parquet"))
    assert len(read(tmp_path / "rows.parquet", read_images).label_names) == 2
    lists = datasets.Dataset.from_dict({"image": [[[0, 1]]] * 60, "label": [i % 2 for i in range(60)]})
    lists.to_parquet(str(tmp_path / "lists.parquet"))
    with pytest.raises(DataError, match="row 1 of train"):
        read(tmp_path / "lists.parquet", read_images)
