"""Rows for language models: prompts with completions, chats, or documents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from autopeft.data.chats import chat_row, holds_messages
from autopeft.data.columns import (
    Columns,
    as_string,
    cells_of,
    check_named,
    column_list,
    first_usual_column,
    groups_in,
    refuse_written_lists,
    rows_of,
)
from autopeft.data.dataset import Row, UncutRows
from autopeft.data.sources import read
from autopeft.errors import DataError
from autopeft.plugins import LabelKind
from autopeft.types import DataSpec

# Usual column names, the most telling first: a prompt and its completion.
PAIRS = (
    "prompt+completion prompt+response instruction+output instruction+response question+answer"
    " question+response query+response source+target input+output document+summary text+summary"
    " article+summary dialogue+summary article+highlights"
)
# A prompt of one of these names takes in the column `input` or `context`: in Alpaca, Dolly and SQuAD.
EXTENDED_PROMPTS, MORE_NAMES = ("instruction", "question", "prompt"), "input context"
CHAT_NAMES = "messages conversations"
TRANSLATION = "translation"  # a column of records with a text in each language, as WMT and OPUS have it
TEXT_NAMES = "text content document"
SYSTEM, TOOLS = "system", "tools"  # columns next to chats
_ANSWERS = "the assistant's answers"


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """The kind of a dataset's rows, and the columns that hold them."""

    kind: LabelKind
    inputs: tuple[str, ...]
    label: str = ""  # the column that is learned, or "the assistant's answers"; empty for all of a text
    system: str | None = None
    tools: str | None = None


def read_language(spec: DataSpec) -> UncutRows:
    """Read rows of text; the input of a row is its prompt, or all of a document."""
    source = read(spec)
    if TRANSLATION in source.tables["train"][0].column_names:
        # One column for each language: `translation.de`, `translation.en`.
        source = source.with_tables(lambda table: table.flatten())
    layout = _choose_layout(spec, source.tables["train"][0])
    prompt = " and ".join(filter(None, (layout.tools, layout.system, *layout.inputs)))
    learned = f"The model learns to write {layout.label} after" if layout.label else "The model learns all of"
    return UncutRows(
        name=source.name,
        splits=source.rows(lambda split, table: _rows(split, table, layout, group=spec.group_column)),
        kind=layout.kind,
        input_columns=layout.inputs,
        label_column=layout.label,
        notes=(*source.notes, f"{learned} {prompt}."),
    )


def _choose_layout(spec: DataSpec, table: Any) -> _Layout:
    """Choose the layout of the spec's columns, else the first that the column names suggest."""
    names = table.column_names
    check_named(spec, names)
    inputs = spec.text_columns
    if len(inputs) > 1 and spec.label_column is None:
        raise DataError(
            f"--text-column is {', '.join(inputs)}; give one, the text, or name the completion with "
            "--label-column."
        )
    chat = inputs[0] if inputs else first_usual_column(names, CHAT_NAMES)
    system, tools = first_usual_column(names, SYSTEM), first_usual_column(names, TOOLS)
    if chat and spec.label_column is None:
        cells = cells_of("train", table, chat)
        if not inputs:
            refuse_written_lists(cells, chat)
        if holds_messages(cells):
            return _Layout(kind="chat", inputs=(chat,), label=_ANSWERS, system=system, tools=tools)
    if inputs and spec.label_column is None:
        return _Layout(kind="documents", inputs=inputs)
    by_lower = {name.strip().lower(): name for name in names}
    pairs = [[by_lower.get(name) for name in pair.split("+")] for pair in PAIRS.split()]
    languages = [name for name in names if name.startswith(f"{TRANSLATION}.")]
    if len(languages) > 1:
        pairs.append(languages[:2])
    prompt = inputs[0] if inputs else next((p for p, c in pairs if p and (c or spec.label_column)), None)
    completion = spec.label_column or next((c for p, c in pairs if c and p == prompt), None)
    if prompt and completion:
        more = first_usual_column([name for name in names if name not in (prompt, completion)], MORE_NAMES)
        is_extended = not inputs and more and prompt.strip().lower() in EXTENDED_PROMPTS
        input_columns = (prompt, more) if more and is_extended else (prompt,)
        return _Layout(kind="completion", inputs=inputs or input_columns, label=completion)
    text = first_usual_column(names, TEXT_NAMES)
    if text is None:
        raise DataError(
            f"There is neither a text nor a prompt with a completion among {column_list(table)}; name the "
            "columns with --text-column and --label-column. Flatten nested objects into columns first."
        )
    return _Layout(kind="documents", inputs=(text,))


def _rows(split: str, table: Any, layout: _Layout, *, group: str | None) -> list[Row]:
    """Read the rows of a table."""
    if layout.kind == "chat":
        chats = cells_of(split, table, layout.inputs[0])
        groups = groups_in(split, table, group)
        systems = cells_of(split, table, layout.system or SYSTEM, is_needed=False)
        tools = cells_of(split, table, layout.tools or TOOLS, is_needed=False)
        cells = enumerate(zip(chats, groups, systems, tools, strict=True), start=1)
        return [
            chat_row(f"Row {n} of {split}", turns, row_group, system=as_string(message, SYSTEM), tools=some)
            for n, (turns, row_group, message, some) in cells
        ]
    columns = Columns(inputs=layout.inputs, label=layout.label, group=group)
    rows = rows_of(split, table, columns, read_label=lambda cell, column, *_: as_string(cell, column))
    # Columns after the first may be blank, as the inputs of Alpaca are in three of five rows.
    prompts = [(row.inputs[0] and "\n\n".join(filter(None, row.inputs)),) for row in rows]
    return [row._replace(inputs=prompt) for row, prompt in zip(rows, prompts, strict=True)]
