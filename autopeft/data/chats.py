"""Chats: lists of messages in the common forms, as the messages before an answer and the answer."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from autopeft.data.dataset import Row
from autopeft.errors import DataError
from autopeft.types import shortened

_CALL_KEYS = ("name", "tool_calls", "tool_call_id")  # of messages that call a tool or give its result
_THOUGHT_KEYS = ("reasoning_content", "reasoning", "thinking")  # hold what a model thought before it answered
_CALL = "function_call"  # the role of ShareGPT's calls, which are JSON
_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "observation": "tool",
}  # of ShareGPT
_SYSTEM = "system"
_MESSAGES, _TOOLS = "messages", "tools"  # keys of the input of a row with tools
_TEXT = "text"  # the type of a part of a message that is text


def holds_messages(cells: Any) -> bool:
    """Whether the first cell that is not blank is a list of messages."""
    chat = next((cell for cell in cells if cell), None)
    return isinstance(chat, list) and all(isinstance(turn, dict) for turn in chat)


def holds_tools(cells: Sequence[Any]) -> bool:
    """Whether a column holds tools: some cell lists tools, or every cell is blank or an empty list."""
    lists = [_as_list(cell) for cell in cells]
    return any(lists) or None not in lists


def chat_row(
    where: str, cells: Sequence[Any], group: str | None, *, system: str | None = None, tools: Any = None
) -> Row | None:
    """Make a row of a chat: all messages but the last as JSON, and the last answer as the label.

    Returns None if a cell is blank, or if there is no answer to learn: the last message is the user's, is
    blank, or has the weight 0. Raises DataError if a message lacks role or content, the chat ends with
    another role, or `tools` is no list. `chat_of` parses the JSON again.

    `cells` are one list of messages, or two: a prompt and its completion. `system` is the first message of a
    chat that begins with no system message. `tools` are a list or its JSON; blank if there are none. `where`
    names the row in errors.
    """
    if not all(cells):
        return None
    messages = [
        _read_message(turn, where) for cell in cells for turn in (cell if isinstance(cell, list) else [cell])
    ]
    faulty = [m for m in messages if not (m.get("role") and isinstance(m["content"], str))]
    if faulty:
        raise DataError(f"{where} holds {shortened(str(faulty[0]), 60)}; it needs role and content.")
    last = messages[-1]
    if last["role"] == "user":
        return None
    if last["role"] != "assistant" or len(messages) < 2:
        raise DataError(
            f"{where} ends with role {last['role']!r} after {len(messages) - 1} "
            "messages; a chat should end with an answer to something, of role 'assistant'."
        )
    if not last["content"].strip() or has_no_weight(cells):
        return None  # a call of a tool has no text to learn
    chat: Any = messages[:-1]
    if system and chat[0]["role"] != _SYSTEM:
        chat.insert(0, {"role": _SYSTEM, "content": system})
    tool_list = _as_list(tools)
    if tool_list is None:
        raise DataError(
            f"{where} has {shortened(str(tools), 60)} as tools; write a list of them, or its JSON, or rename "
            "the column."
        )
    if tool_list:
        chat = {_TOOLS: [_without_none(tool) for tool in tool_list], _MESSAGES: chat}
    return Row((json.dumps(chat, ensure_ascii=False),), last["content"], group)


def chat_of(text: str) -> tuple[list[dict[str, Any]], list[Any] | None]:
    """Parse the input that `chat_row` made: the messages before the answer, and the tools or None."""
    chat = json.loads(text)
    return (chat, None) if isinstance(chat, list) else (chat[_MESSAGES], chat[_TOOLS])


def has_thoughts(cells: Sequence[Any]) -> bool:
    """Whether the last message keeps thoughts under a separate key; such thoughts are not learned."""
    last = _last_message(cells)
    return isinstance(last, Mapping) and any(last.get(key) for key in _THOUGHT_KEYS)


def has_no_weight(cells: Sequence[Any]) -> bool:
    """Whether the last message has the weight 0, with which OpenAI's files mark answers not to learn."""
    last = _last_message(cells)
    return isinstance(last, Mapping) and last.get("weight") == 0


def _last_message(cells: Sequence[Any]) -> Any:
    return cells[-1][-1] if cells and isinstance(cells[-1], list) and cells[-1] else cells[-1]


def _as_list(cell: Any) -> list[Any] | None:
    """Read a cell that is a list, or a list in JSON; [] for a blank cell, None for anything else."""
    try:
        tools = (json.loads(cell) if isinstance(cell, str) and cell.strip() else cell) or []
    except ValueError:
        return None
    return tools if isinstance(tools, list) else None


def _read_message(turn: Any, where: str) -> dict[str, Any]:
    """Read a message's role, content and calls of tools, also from ShareGPT's `from` and `value`.

    None stands for a missing key, since tables fill these in. Only a message with calls may lack content.
    """
    if not isinstance(turn, Mapping):
        raise DataError(
            f"{where} holds {shortened(str(turn), 60)} among its messages; each is a record of role and "
            "content."
        )
    role = turn.get("role", turn.get("from"))
    if role == _CALL:
        written = turn.get("content", turn.get("value"))
        listed = _as_list(written) or _as_list(f"[{written}]") or []
        if not (listed and all(isinstance(call, Mapping) and "name" in call for call in listed)):
            raise DataError(
                f"{where} holds {shortened(str(written), 60)} as {_CALL}; write the JSON of a call with its "
                "name and arguments, or of a list of calls."
            )
        turn = {"tool_calls": [{"type": "function", "function": call} for call in listed]}
        role = "assistant"
    role = _ROLES.get(str(role), role)
    calls = {key: _parse_arguments(_without_none(turn[key])) for key in _CALL_KEYS if turn.get(key)}
    content = turn.get("content", turn.get("value"))
    if isinstance(content, list) and content:
        content = "".join(_text_of(part, where) for part in content)
    weight = {"weight": 0} if turn.get("weight") == 0 else {}  # which `task.learn: answers` leaves out
    return {"role": role, "content": "" if content is None and calls else content, **calls, **weight}


def _text_of(part: Any, where: str) -> str:
    """Read one part of a message as text; raises DataError for an image, a sound and the like."""
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    text = part.get(_TEXT) if isinstance(part, Mapping) else None
    if kind != _TEXT or not isinstance(text, str):
        raise DataError(
            f"{where} has a message with a part of type {kind!r}; only parts of type {_TEXT!r} can be "
            "learned from, leave such chats out."
        )
    return text


def _without_none(cell: Any) -> Any:
    if isinstance(cell, dict):
        return {key: _without_none(item) for key, item in cell.items() if item is not None}
    return [_without_none(item) for item in cell] if isinstance(cell, list) else cell


def _parse_arguments(calls: Any) -> Any:
    """Parse `arguments` in JSON, as OpenAI's files have them, since templates write the JSON themselves."""
    if isinstance(calls, list):
        return [_parse_arguments(call) for call in calls]
    if not isinstance(calls, dict):
        return calls
    parsed = {key: _parse_arguments(value) for key, value in calls.items()}
    if isinstance(written := parsed.get("arguments"), str):
        with contextlib.suppress(ValueError):
            arguments = json.loads(written)
            parsed["arguments"] = arguments if isinstance(arguments, dict) else written
    return parsed
