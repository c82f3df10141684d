"""Chats in the forms that people have them: parts of messages, TRL's prompts, and chats without an answer."""

from __future__ import annotations

import json

import pytest

from autopeft.data import load, read_language
from autopeft.errors import DataError
from autopeft.records import DataSpec

N = 90


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


def read(folder, rows):
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return load(DataSpec(source=str(folder / "rows.jsonl")), seed=0, read_rows=read_language)


def usual_rows():
    return [{"messages": [user(f"hello {i}"), assistant(f"bye {i}")]} for i in range(N)]


def test_parts_of_a_message_are_joined(tmp_path):
    def parts(*texts):
        return [{"type": "text", "text": text} for text in texts]

    rows = [{"messages": [user(parts("hel", f"lo {i}")), assistant(parts(f"bye {i}"))]} for i in range(N)]
    assert read(tmp_path, rows).fingerprint == read(tmp_path, usual_rows()).fingerprint
    rows[6]["messages"][0]["content"] = [{"type": "image", "url": "a.png"}, *parts("what is it?")]
    with pytest.raises(DataError, match=r"^Row 7 of train has a message with a part of type 'image'; only "):
        read(tmp_path, rows)


def test_prompts_and_completions_of_messages_are_one_chat(tmp_path):
    rows = [{"prompt": [user(f"hello {i}")], "completion": [assistant(f"bye {i}")]} for i in range(N)]
    data = read(tmp_path, rows)
    assert data.fingerprint == read(tmp_path, usual_rows()).fingerprint
    assert (data.target.kind, data.text_columns, data.label_column) == ("chat", ("prompt",), "completion")
    assert "What is learned is completion, after prompt." in data.notes


def test_chats_that_end_with_the_user_are_dropped_unless_all_do(tmp_path):
    rows = usual_rows()
    for row in rows[:9]:
        row["messages"].append(user("thanks"))
    data = read(tmp_path, rows)
    assert "Dropped 9 train chats without an answer at their end." in data.notes
    assert len(data.train.labels) + len(data.search.labels) + len(data.confirm.labels) == N - 9
    with pytest.raises(DataError, match=r"^None of the 9 train chats ends with the assistant's answer"):
        read(tmp_path, rows[:9])


def test_a_long_message_without_a_role_is_cut_with_a_sign(tmp_path):
    rows = [{"messages": [{"content": "long " * 40}, assistant("bye")]} for _ in range(N)]
    with pytest.raises(DataError, match=r"Row 1 of train holds \{.{58}…; it needs role and content\."):
        read(tmp_path, rows)
