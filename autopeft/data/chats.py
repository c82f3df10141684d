"""Chats: lists of messages, as the messages before an answer and the answer."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from typing import Any

from autopeft.data.dataset import Row
from autopeft.errors import DataError
from autopeft.types import shortened

_CALL_KEYS = ("name", "tool_calls", "tool_call_id")  # of messages that call a tool or give its result
_SHAREGPT_ROLES = {"human": "user", "gpt": "assistant", "system": "system"}
_SYSTEM = "system"
_MESSAGES, _TOOLS = "messages", "tools"  # keys of the input of a row with tools


def holds_messages(cells: Sequence[Any]) -> bool:
    """Whether the first cell that is not blank is a list of messages."""
    chat = next((cell for cell in cells if cell), None)
    return isinstance(chat, list) and all(isinstance(turn, dict) for turn in chat)


def chat_row(
    where: str, turns: Sequence[Any] | None, group: str | None, *, system: str | None, tools: Any
) -> Row:
    """Make a row of a chat: all messages but the last as JSON, and the last answer as the label.

    The label is None if there are no messages, or the last one is the user's or has no text. `system` is the
    first message of a chat without one; `tools` are a list or its JSON.
    """
    without_answer = Row((), None, group)
    messages = [_read_message(turn, where) for turn in turns or ()]
    if not messages or messages[-1]["role"] == "user":
        return without_answer
    last = messages[-1]
    if last["role"] != "assistant" or len(messages) < 2:
        raise DataError(
            f"{where} ends with role {last['role']!r} after {len(messages) - 1} messages; a chat should end "
            "with an answer to something, of role 'assistant'."
        )
    if not last["content"].strip():  # a call of a tool has no text to learn
        return without_answer
    chat: Any = messages[:-1]
    if system and chat[0]["role"] != _SYSTEM:
        chat.insert(0, {"role": _SYSTEM, "content": system})
    if tool_list := _read_tools(tools, where):
        chat = {_TOOLS: [_without_none(tool) for tool in tool_list], _MESSAGES: chat}
    return Row((json.dumps(chat, ensure_ascii=False),), last["content"], group)


def chat_of(text: str) -> tuple[list[dict[str, Any]], list[Any] | None]:
    """Parse the input that `chat_row` made: the messages before the answer, and the tools or None."""
    chat = json.loads(text)
    return (chat, None) if isinstance(chat, list) else (chat[_MESSAGES], chat[_TOOLS])


def _read_message(turn: Any, where: str) -> dict[str, Any]:
    """Read a message's role, content and tool calls, or ShareGPT's `from` and `value`.

    Tables fill missing keys with None. Only a message with calls may have no content.
    """
    turn = _without_none(turn) if isinstance(turn, dict) else {}
    role = turn.get("role", _SHAREGPT_ROLES.get(str(turn.get("from"))))
    calls = {key: _parse_arguments(turn[key]) for key in _CALL_KEYS if turn.get(key)}
    content = turn.get("content", turn.get("value", "" if calls else None))
    if not role or not isinstance(content, str):
        raise DataError(
            f"{where} holds {shortened(str(turn), 60)} among its messages; each needs a text as content and "
            "a role (or ShareGPT's value, and from: human, gpt or system)."
        )
    return {"role": role, "content": content, **calls}


def _read_tools(cell: Any, where: str) -> list[Any]:
    tools = cell or []
    if isinstance(cell, str) and cell.strip():
        with contextlib.suppress(ValueError):
            tools = json.loads(cell)
    if not isinstance(tools, list):
        raise DataError(
            f"{where} has {shortened(str(cell), 60)} as tools; write a list of them, or its JSON, or rename "
            "the column."
        )
    return tools


def _without_none(cell: Any) -> Any:
    if isinstance(cell, dict):
        return {key: _without_none(item) for key, item in cell.items() if item is not None}
    return [_without_none(item) for item in cell] if isinstance(cell, list) else cell


def _parse_arguments(calls: Any) -> Any:
    """Parse `arguments` in JSON, as OpenAI's files have them, since templates write the JSON themselves."""
    if not isinstance(calls, list):
        return calls
    parsed = []
    for call in calls:
        function = dict(call.get("function", {}))
        if isinstance(function.get("arguments"), str):
            with contextlib.suppress(ValueError):
                function["arguments"] = json.loads(function["arguments"])
        parsed.append({**call, "function": function} if function else call)
    return parsed
