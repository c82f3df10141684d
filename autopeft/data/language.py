"""Rows for language models: prompts with completions, chats, documents, or one long text."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autopeft.data.columns import as_string, check_named, usual
from autopeft.data.rows import Parts, Read, Row
from autopeft.data.sources import PARAGRAPH, TABLES, TEXTS, read
from autopeft.errors import DataError
from autopeft.extension import Target
from autopeft.records import DataSpec

# Usual column names, the most telling first; a prompt goes with the completion at the same place.
PAIRS = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("instruction", "output"),
    ("instruction", "response"),
    ("question", "answer"),
    ("source", "target"),
    ("input", "output"),
    ("document", "summary"),
)
CHAT_NAMES = "messages conversation conversations chat"
TEXT_NAMES = "text content document body story article"


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """What the rows hold, and in which columns."""

    kind: str
    inputs: tuple[str, ...]
    label: str = ""


def read_language(spec: DataSpec, notes: list[str]) -> Read:
    """Rows of text; where a prompt occurs again its rows form a group, so that no split shares it.

    Raises:
        DataError: No column to learn from, or rows that do not hold what their column says.
    """
    if spec.time_column is not None:
        raise DataError("data.time_column is for labelled rows; sort texts into files train and validation.")
    name, tables = read(spec, notes, suffixes=(*TABLES, *TEXTS))
    layout = _layout(spec, tables["train"][0])
    parts: Parts = {}
    for part, found in tables.items():
        rows = [row for table in found for row in _rows(part, table, layout, group=spec.group_column)]
        parts[part] = [row for row in rows if row is not None]
        if len(parts[part]) < len(rows):
            notes.append(f"Dropped {len(rows) - len(parts[part])} {part} rows without text.")
    if layout.label and spec.group_column is None:
        _group_repeated(parts)
    notes.append(_said(layout))
    return Read(
        name=name,
        parts=parts,
        target=Target(kind=layout.kind),
        input_columns=layout.inputs,
        label_column=layout.label,
        in_order=layout.kind == "stream",
        may_repeat=bool(layout.label),
    )


def _layout(spec: DataSpec, table: Any) -> _Layout:
    names = table.column_names
    if names == [PARAGRAPH]:
        return _Layout(kind="stream", inputs=(PARAGRAPH,))
    check_named(spec, names)
    given = spec.text_columns
    if len(given) > 1:
        raise DataError(f"data.text_columns is {', '.join(given)}; give one, the prompt or the text.")
    chat = given[0] if given else usual(names, CHAT_NAMES)
    if chat and spec.label_column is None and _holds_messages(table[chat]):
        return _Layout(kind="chat", inputs=(chat,), label="the last answer")
    if given and spec.label_column is None:
        return _Layout(kind="documents", inputs=given)
    by_lower = {name.lower(): name for name in names}
    pairs = [(by_lower.get(p), by_lower.get(c)) for p, c in PAIRS]
    prompt = given[0] if given else next((p for p, c in pairs if p and (c or spec.label_column)), None)
    completion = spec.label_column or next((c for p, c in pairs if c and p == prompt), None)
    if prompt and completion:
        return _Layout(kind="completion", inputs=(prompt,), label=completion)
    text = usual(names, TEXT_NAMES)
    if text is None:
        raise DataError(
            f"There is neither a text nor a prompt with a completion among {', '.join(names)}; name the "
            "columns in data.text_columns and data.label_column."
        )
    return _Layout(kind="documents", inputs=(text,))


def _said(layout: _Layout) -> str:
    if layout.kind == "stream":
        return (
            "Text files are read as one text, paragraph after paragraph; nothing is taken for a repetition."
        )
    if layout.kind == "documents":
        return f"All of column {layout.inputs[0]} is learned."
    return f"What is learned is {layout.label}, after {layout.inputs[0]}."


def _holds_messages(cells: Any) -> bool:
    first = next((cell for cell in cells if cell), None)
    return isinstance(first, list) and all(isinstance(turn, dict) for turn in first)


def _rows(part: str, table: Any, layout: _Layout, *, group: str | None) -> list[Row | None]:
    names = [*layout.inputs, *([layout.label] if layout.kind == "completion" else [])]
    for name in names:
        if name not in table.column_names:
            raise DataError(f"A {part} table lacks column {name}; it has {', '.join(table.column_names)}.")
    has_group = group is not None and group in table.column_names
    groups = [as_string(cell, str(group)) for cell in table[group]] if has_group else [None] * len(table)
    if layout.kind == "chat":
        turns = enumerate(zip(table[layout.inputs[0]], groups, strict=True))
        return [_chat_row(part, index, cell, own) for index, (cell, own) in turns]
    if layout.kind == "stream":
        return [Row((cell,), "", None) for cell in table[PARAGRAPH]]
    columns = [[as_string(cell, name) for cell in table[name]] for name in names]
    return [
        None if None in cells else Row((cells[0],), cells[1] if len(cells) > 1 else "", own)
        for *cells, own in zip(*columns, groups, strict=True)
    ]


def _chat_row(part: str, index: int, turns: Any, group: str | None) -> Row | None:
    """All turns but the last as JSON; the last, which has to be the assistant's, is the label."""
    if not turns:
        return None
    plain = [{"role": _role(turn), "content": _content(turn)} for turn in turns]
    faulty = next((turn for turn in plain if not (turn["role"] and isinstance(turn["content"], str))), None)
    if faulty is not None:
        raise DataError(
            f"Row {index + 1} of {part} holds {str(faulty)[:60]}; a message has role and content."
        )
    if plain[-1]["role"] != "assistant" or len(plain) < 2:
        raise DataError(
            f"Row {index + 1} of {part} ends with role {plain[-1]['role']!r} after {len(plain) - 1} "
            "messages; a chat should end with the assistant's answer to something."
        )
    return Row((json.dumps(plain[:-1], ensure_ascii=False),), plain[-1]["content"], group)


def _role(turn: Mapping[str, Any]) -> Any:
    """Also as ShareGPT writes it."""
    role = turn.get("role", turn.get("from"))
    return {"human": "user", "gpt": "assistant"}.get(str(role), role)


def _content(turn: Mapping[str, Any]) -> Any:
    return turn.get("content", turn.get("value"))


def _group_repeated(parts: Parts) -> None:
    """Rows of one prompt stay in one split; changes the parts."""
    n_seen = Counter(row.inputs for row in parts["train"])
    parts["train"] = [
        row._replace(group=_group(row.inputs)) if n_seen[row.inputs] > 1 else row for row in parts["train"]
    ]


def _group(inputs: Sequence[str]) -> str:
    return " ".join(inputs)
