"""Counts in messages: one row is a row, and rows are asked for where the user can give them alone."""

from __future__ import annotations

import json

import pytest

from autopeft.data import load, read_language, read_texts, read_tokens
from autopeft.data.cutting import CUT_AT_MOST
from autopeft.errors import DataError
from autopeft.records import DataSpec

N = 60


def write(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def labelled(n=N, start=0):
    return [{"text": f"sentence {i}", "label": "ab"[i % 2]} for i in range(start, start + n)]


def tagged(n=N):
    return [{"tokens": ["x", str(i)], "tags": ["O", "B-n"]} for i in range(n)]


def notes_of(source, read_rows=read_texts):
    return load(DataSpec(source=str(source)), seed=0, read_rows=read_rows).notes


@pytest.mark.parametrize(("n", "rows"), [(1, "1 row"), (2, "2 rows")])
def test_dropped_and_repeated_rows_are_counted_in_words(tmp_path, n, rows):
    bare = [{"text": f"bare {i}", "label": None} for i in range(n)]
    blank = [{"text": " ", "label": "a"}] * n
    notes = notes_of(write(tmp_path / "rows.jsonl", [*labelled(), *labelled(n), *bare, *blank]))
    train_rows = rows.replace("row", "train row")
    assert f"Dropped {train_rows} without a label." in notes
    assert f"Dropped {train_rows} without text." in notes
    assert f"Removed {rows} whose text occurs again." in notes


@pytest.mark.parametrize(("n", "rows", "tokens"), [(1, "row", "token"), (3, "rows", "tokens")])
def test_sentences_and_tags_are_counted_in_words(tmp_path, n, rows, tokens):
    odd = [{"tokens": ["y", f"z{i}"], "tags": ["-100", "O"]} for i in range(n)]
    blank = [{"tokens": [], "tags": []}] * n
    notes = notes_of(write(tmp_path / "rows.jsonl", [*tagged(), *odd, *blank]), read_tokens)
    assert f"Dropped {n} train {rows} without tokens." in notes
    assert any(note.startswith(f"The tag -100 of {n} train {tokens} stands for none") for note in notes)


def test_a_token_with_two_tags_is_one_token(tmp_path):
    rows = write(tmp_path / "rows.jsonl", [*tagged(), {"tokens": ["x"], "tags": ["O", "O"]}])
    with pytest.raises(DataError, match=r"has 1 token and 2 tags \(x\)"):
        notes_of(rows, read_tokens)


@pytest.mark.parametrize(("n", "chats"), [(1, "chat"), (2, "chats")])
def test_chats_are_counted_in_words(tmp_path, n, chats):
    def chat(i):
        answer = {"role": "assistant", "content": f"answer {i}", "weight": int(i >= n)}
        return {"messages": [{"role": "user", "content": f"question {i}"}, answer]}

    notes = notes_of(write(tmp_path / "rows.jsonl", [chat(i) for i in range(N)]), read_language)
    assert f"The last answer of {n} train {chats} has weight 0 and is not to be learned." in notes
    assert f"Dropped {n} train {chats} without an answer at the end." in notes


def test_a_label_column_without_labels_is_named_in_a_sentence(tmp_path):
    rows = write(tmp_path / "rows.jsonl", [{"text": f"row {i} here", "answer": None} for i in range(N)])
    with pytest.raises(DataError, match=r"^No train row of 60 has a label in column answer; training needs"):
        load(DataSpec(source=str(rows), label_column="answer"), seed=0)


def test_rows_are_asked_for_only_where_the_user_can_give_them(tmp_path):
    """Ten labels of two rows are too rare for the cuts; a validation file lacks b."""
    rare = [{"text": f"rare {i}", "label": f"r{i // 2}"} for i in range(20)]
    write(tmp_path / "train.jsonl", [*labelled(400), *rare])
    alone = notes_of(tmp_path / "train.jsonl")
    write(tmp_path / "validation.jsonl", [row for row in labelled(100, 1000) if row["label"] == "a"])
    beside = notes_of(tmp_path)

    def said(notes, split):
        return next(note for note in notes if note.startswith(f"The {split} split has no row with"))

    cut = f"labelled (this split is cut from train, {CUT_AT_MOST:,} rows at most)"
    assert said(alone, "search").endswith(f"{cut}.") and said(beside, "search").endswith(f"{cut}.")
    assert said(alone, "confirm").endswith(f"{cut}; give a validation file with such rows to judge them.")
    assert said(beside, "confirm").endswith("labelled; add some.")
