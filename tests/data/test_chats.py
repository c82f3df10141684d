"""Chats: messages, ShareGPT's turns, tools, and chats without an answer."""

from __future__ import annotations

import json

import pytest

from autopeft.data import chat_of, load, read_language
from autopeft.errors import DataError
from autopeft.types import DataSpec

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


def test_turns_of_sharegpt_are_messages(tmp_path):
    def turns(i):
        return [{"from": "human", "value": f"hello {i}"}, {"from": "gpt", "value": f"bye {i}"}]

    rows = [{"conversations": turns(i)} for i in range(N)]
    assert read(tmp_path, rows).label_space.kind == "chat"
    assert read(tmp_path, rows).fingerprint == read(tmp_path, usual_rows()).fingerprint


@pytest.mark.parametrize(
    "turn",
    [
        {"from": "function_call", "value": "{}"},
        {"role": "user", "content": [{"type": "text", "text": "hello"}]},
        {"role": "user", "content": None},
        {"text": "hello"},
        None,
    ],
)
def test_messages_of_other_forms_are_refused(tmp_path, turn):
    rows = [*usual_rows(), {"messages": [turn, assistant("bye")] if turn else [assistant("bye")]}]
    with pytest.raises(DataError, match=f"Row {N + 1} of train"):
        read(tmp_path, rows)


def test_chats_that_end_with_the_user_are_dropped_unless_all_do(tmp_path):
    rows = usual_rows()
    for row in rows[:9]:
        row["messages"].append(user("thanks"))
    data = read(tmp_path, rows)
    assert "Dropped 9 train rows without an answer at the end." in data.notes
    assert len(data.train.labels) + len(data.search.labels) + len(data.confirm.labels) == N - 9
    with pytest.raises(DataError, match="No train row of 9"):
        read(tmp_path, rows[:9])


def test_a_system_column_is_the_first_message_and_tools_go_with_the_chat(tmp_path):
    tool = {"type": "function", "function": {"name": "add"}}
    rows = [row | {"system": "be kind" if i else "", "tools": [tool]} for i, row in enumerate(usual_rows())]
    rows[1]["messages"].insert(0, {"role": "system", "content": "be brief"})
    data = read(tmp_path, rows)
    chats = {label: chat_of(text) for (text,), label in everything(data)}
    assert chats["bye 0"] == ([user("hello 0")], [tool])
    assert chats["bye 1"] == ([{"role": "system", "content": "be brief"}, user("hello 1")], [tool])
    assert chats["bye 2"] == ([{"role": "system", "content": "be kind"}, user("hello 2")], [tool])
    note = "The model learns to write the assistant's answers after tools and system and messages."
    assert note in data.notes


def everything(data):
    splits = (data.train, data.search, data.confirm)
    return [pair for split in splits for pair in zip(split.inputs, split.labels, strict=True)]


def test_tools_may_be_written_as_json_and_blank_ones_change_nothing(tmp_path):
    rows = [row | {"system": None, "tools": "[]" if i else ""} for i, row in enumerate(usual_rows())]
    assert read(tmp_path, rows).fingerprint == read(tmp_path, usual_rows()).fingerprint
    rows[4]["tools"] = '[{"name": "add"}]'
    chats = {label: chat_of(text) for (text,), label in everything(read(tmp_path, rows))}
    assert chats["bye 4"] == ([user("hello 4")], [{"name": "add"}])
    rows[5]["tools"] = '{"name": "add"}'
    with pytest.raises(DataError, match="Row 6 of train"):
        read(tmp_path, rows)


def test_calls_of_tools_stay_in_a_chat_and_a_chat_that_ends_in_one_is_left_out(tmp_path):
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}

    def chat(i):
        called = {"role": "assistant", "content": None, "tool_calls": [call]}
        result = [{"role": "tool", "name": "add", "content": "2"}, assistant("two")]
        return {"messages": [user(f"what is {i}?"), called, *(result if i % 3 else [])]}

    data = read(tmp_path, [chat(i) for i in range(N)])
    assert "Dropped 30 train rows without an answer at the end." in data.notes
    _, calling, answer = json.loads(data.train.inputs[0][0])
    assert calling == {"role": "assistant", "content": "", "tool_calls": [call]}
    assert answer == {"role": "tool", "content": "2", "name": "add"}
    assert set(data.train.labels) == {"two"}


def test_arguments_of_calls_are_records_also_where_they_are_written_as_json(tmp_path):
    """As OpenAI's files have them; templates write records as JSON, and texts as quoted texts."""
    written, kept = [json.dumps({"city": "Rome", "days": [1]}), "not json"], []
    for arguments in written:
        calls = [{"type": "function", "function": {"name": "weather", "arguments": arguments}}]
        turns = [user("hello"), assistant("") | {"tool_calls": calls}, user("and?")]
        rows = [{"messages": [*turns, assistant(f"bye {i}")]} for i in range(N)]
        ((text,), _), *_ = everything(read(tmp_path, rows))
        kept.append(chat_of(text)[0][1]["tool_calls"][0]["function"]["arguments"])
    assert kept == [{"city": "Rome", "days": [1]}, "not json"]
