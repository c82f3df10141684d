"""Rows for language models: prompts with completions, chats, documents, or one long text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from autopeft.data.cells import as_group, as_string
from autopeft.data.chats import chat_row, has_no_weight, has_thoughts, holds_messages, holds_tools
from autopeft.data.columns import (
    cells_of,
    check_named,
    column_list,
    first_usual_column,
    notes_on_unread_texts,
)
from autopeft.data.dataset import Parts, Row, UncutRows
from autopeft.data.formats import PARAGRAPH, PARAGRAPHS
from autopeft.data.labels import WITHOUT_TEXT
from autopeft.data.sources import read
from autopeft.errors import DataError
from autopeft.plugins import LabelKind, LabelSpace
from autopeft.types import DataSpec, counted

# Usual column names, the most telling first: a prompt and its completion.
PAIRS = (
    "prompt+completion prompt+response instruction+output instruction+response question+answer"
    " question+response query+response source+target input+output document+summary text+summary"
    " article+summary dialogue+summary article+highlights"
)
# A prompt of one of these names takes in the column `input` or `context`: in Alpaca, Dolly and SQuAD.
EXTENDED_PROMPTS, MORE_NAMES = ("instruction", "question", "prompt"), "input context"
CHAT_NAMES = "messages conversation conversations chat"
TRANSLATION = "translation"  # a column of records with a text in each language, as WMT and OPUS have it
TEXT_NAMES = "text content document body story article"
SYSTEM, TOOLS, HISTORY = "system system_prompt", "tools", "history"  # columns beside a prompt or a chat
# A prompt in more than a tenth of the train rows, and in more than 10, is a fixed instruction rather than a
# question; chosen by hand.
_FIXED_SHARE, _FIXED_AT_LEAST = 10, 10


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """The kind of a dataset's rows (`plugins.LabelSpace.kind`), and the columns that hold them.

    `completion` is None if one column holds whole chats, or all of a text is learned. `system` and `tools`
    are columns beside chats.
    """

    kind: LabelKind
    inputs: tuple[str, ...]
    completion: str | None = None
    system: str | None = None
    tools: str | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of inputs and completion."""
        return self.inputs if self.completion is None else (*self.inputs, self.completion)

    @property
    def label(self) -> str:
        """What is learned after a prompt, in words; empty if all of a text is learned."""
        return self.completion or ("the assistant's answers" if self.kind == "chat" else "")

    @property
    def note(self) -> str:
        """What is learned, in plain words."""
        if self.kind == "stream":
            return "Text files are read as one text, paragraph by paragraph; repeated paragraphs are kept."
        if self.kind == "documents":
            return f"All of column {self.inputs[0]} is learned."
        prompt = filter(None, (self.tools, self.system, *self.inputs))
        return f"The model learns to write {self.label} after {' and '.join(prompt)}."


def read_language(spec: DataSpec) -> UncutRows:
    """Read rows of text; rows with the same prompt form a group, so that no two splits share a prompt.

    Raises a DataError without a column to learn from, or if a row does not hold what its column should.
    """
    if spec.time_column is not None:
        raise DataError("data.time_column is for labelled rows; sort texts into files train and validation.")
    source = read(spec, text=PARAGRAPHS)
    tables = {  # with one column for each language of translations: `translation.de`, `translation.en`
        part: [table.flatten() if TRANSLATION in table.column_names else table for table in part_tables]
        for part, part_tables in source.tables.items()
    }
    layout = _choose_layout(spec, tables["train"][0])
    if layout.tools and not holds_tools(_train_cells(tables["train"], layout.tools)):
        layout = replace(layout, tools=None)
    notes = [*source.notes, *_notes_on_unread(spec, tables["train"], layout)]
    parts: Parts = {}
    left_out: dict[str, int] = {}
    for part, part_tables in tables.items():
        rows: list[Row | None] = []
        for table in part_tables:
            of_table, row_notes = _rows(part, table, layout, group=spec.group_column)
            rows += of_table
            notes += row_notes
        parts[part] = [row for row in rows if row is not None]
        if n_dropped := len(rows) - len(parts[part]):
            left_out |= {WITHOUT_TEXT: n_dropped} if part == "train" else {}
            noun, lack = ("chat", "an answer at the end") if layout.kind == "chat" else ("row", "text")
            notes.append(f"Dropped {counted(n_dropped, f'{part} {noun}')} without {lack}.")
        if part == "train" and layout.kind == "chat" and not parts[part]:
            raise DataError(
                f"No train chat of {len(rows)} ends with the assistant's answer to something, of a "
                "weight other than 0; add the answers, since they are what is learned."
            )
    train, shared = parts["train"], frozenset[tuple[Any, ...]]()
    if layout.label:
        n_rows = Counter(row.inputs for row in train)
        limit = max(_FIXED_AT_LEAST, len(train) // _FIXED_SHARE)
        shared = frozenset(inputs for inputs, n in n_rows.items() if n > limit)
        if shared:
            prompts = f"{counted(len(shared), 'prompt')} {'stands' if len(shared) == 1 else 'stand'}"
            notes.append(
                f"{prompts} in {sum(n_rows[inputs] for inputs in shared)} of {len(train)} train rows: splits "
                "share such instructions; rows are duplicates only where the completion is the same too."
            )
        if spec.group_column is None:
            parts["train"] = [
                row._replace(group=" ".join(row.inputs))
                if n_rows[row.inputs] > 1 and row.inputs not in shared
                else row
                for row in train
            ]
    return UncutRows(
        name=source.name,
        parts=parts,
        label_space=LabelSpace(kind=layout.kind),
        input_columns=layout.inputs,
        label_column=layout.label,
        in_order=layout.kind == "stream",
        may_repeat=bool(layout.label),
        shared_inputs=shared,
        left_out=left_out,
        notes=(*notes, layout.note),
    )


def _notes_on_unread(spec: DataSpec, tables: list[Any], layout: _Layout) -> list[str]:
    """Write notes on columns that are not read, though they hold texts or parts of prompts."""
    if layout.kind == "stream":
        return []
    names = tables[0].column_names
    of_prompts = [name for name in names if name.strip().lower() in f"{SYSTEM} {TOOLS} {HISTORY}".split()]
    notes = []
    for name in of_prompts:
        if not layout.label or name in (layout.system, layout.tools, *layout.columns):
            continue
        cells = _train_cells(tables, name)
        if n_filled := sum(bool(cell) for cell in cells):
            notes.append(
                f"Column {name} is not read, though {n_filled} of {len(cells)} train rows have something in "
                "it; what the model should see of it belongs into the prompt."
            )
    if not spec.text_columns:
        notes += notes_on_unread_texts(tables[0], (*layout.columns, spec.group_column, *of_prompts))
    return notes


def _train_cells(tables: list[Any], name: str) -> list[Any]:
    """Read a column of all train tables; None for each row of a table that lacks it."""
    return [cell for table in tables for cell in cells_of("train", table, name, is_needed=False)]


def _choose_layout(spec: DataSpec, table: Any) -> _Layout:
    """Choose the layout that the spec names, else the first that the column names suggest; else DataError."""
    names = table.column_names
    if names == [PARAGRAPH]:
        return _Layout(kind="stream", inputs=(PARAGRAPH,))
    check_named(spec, names)
    inputs = spec.text_columns
    if len(inputs) > 1 and spec.label_column is None:
        raise DataError(
            f"--text-column is {', '.join(inputs)}; give one, the text, or name the completion with "
            "--label-column."
        )
    chat = inputs[0] if inputs else first_usual_column(names, CHAT_NAMES)
    system, tools = first_usual_column(names, SYSTEM), first_usual_column(names, TOOLS)
    if chat and spec.label_column is None and holds_messages(cells_of("train", table, chat)):
        return _Layout(kind="chat", inputs=(chat,), system=system, tools=tools)
    if inputs and spec.label_column is None:
        return _Layout(kind="documents", inputs=inputs)
    by_lower = {name.strip().lower(): name for name in names}
    pairs = [[by_lower.get(name) for name in pair.split("+")] for pair in PAIRS.split()]
    pairs.append([*[name for name in names if name.startswith(f"{TRANSLATION}.")], None, None][:2])
    if spec.label_column is None:
        _refuse_preferences(table, by_lower)
    prompt = inputs[0] if inputs else next((p for p, c in pairs if p and (c or spec.label_column)), None)
    completion = spec.label_column or next((c for p, c in pairs if c and p == prompt), None)
    if prompt and completion:
        more = first_usual_column([name for name in names if name not in (prompt, completion)], MORE_NAMES)
        is_extended = not inputs and more and prompt.strip().lower() in EXTENDED_PROMPTS
        input_columns = (prompt, more) if more and is_extended else (prompt,)
        if all(holds_messages(cells_of("train", table, name)) for name in (prompt, completion)):
            return _Layout(kind="chat", inputs=(prompt,), completion=completion, system=system, tools=tools)
        return _Layout(kind="completion", inputs=inputs or input_columns, completion=completion)
    text = first_usual_column(names, TEXT_NAMES)
    if text is None:
        raise DataError(
            f"There is neither a text nor a prompt with a completion among {column_list(names)}; name the "
            "columns with --text-column and --label-column."
        )
    return _Layout(kind="documents", inputs=(text,))


def _refuse_preferences(table: Any, by_lower: Mapping[str, str]) -> None:
    """Raise DataError if the columns hold preferences: two completions, or whether one is wanted."""
    label = by_lower.get("label", "")
    is_bool = getattr(table.features.get(label), "dtype", "") == "bool"
    if {"chosen", "rejected"} <= by_lower.keys():
        raise DataError(
            "Columns chosen and rejected hold preferences, which no task learns from; to learn the chosen "
            "texts alone set --text-column chosen, or --text-column and --label-column chosen beside prompts."
        )
    if is_bool and {"prompt", "completion"} <= by_lower.keys():
        raise DataError(
            f"Column {label} says which completions are wanted, and no task learns from that; give the rows "
            "where it is true, without the column."
        )


def _rows(part: str, table: Any, layout: _Layout, *, group: str | None) -> tuple[list[Row | None], list[str]]:
    """Read the rows of a table, None for a row without text; notes say what is not learned."""

    def cells_or_none(name: str | None) -> Sequence[Any]:
        return [None] * len(table) if name is None else cells_of(part, table, name, is_needed=False)

    # Only chats are parsed: a completion may be a list written as text, to be learned as it stands.
    is_chat = layout.kind == "chat"
    columns = [cells_of(part, table, name, reads_lists=is_chat) for name in layout.columns]
    if layout.kind == "stream":
        return [Row((cell,), "", None) for cell in columns[0]], []
    groups = [as_group(cell, str(group)) for cell in cells_or_none(group)]
    rows: list[Row | None] = []
    notes: list[str] = []
    if is_chat:
        chats = list(zip(*columns, strict=True))
        if n := sum(map(has_no_weight, chats)):
            notes.append(
                f"The last answer of {counted(n, f'{part} chat')} has weight 0 and is not to be learned."
            )
        if n := sum(map(has_thoughts, chats)):
            notes.append(
                f"The thoughts beside the answer of {counted(n, f'{part} chat')} are not learned; write "
                "them into it."
            )
        systems = [as_string(cell, str(layout.system)) for cell in cells_or_none(layout.system)]
        tools_of = cells_or_none(layout.tools)
        for i, (cells, row_group) in enumerate(zip(chats, groups, strict=True)):
            where = f"Row {i + 1} of {part}"
            rows.append(chat_row(where, cells, row_group, system=systems[i], tools=tools_of[i]))
        return rows, notes
    texts = [
        [as_string(cell, name) for cell in cells] for name, cells in zip(layout.columns, columns, strict=True)
    ]
    for cells, row_group in zip(zip(*texts, strict=True), groups, strict=True):
        *inputs, completion = cells if layout.kind == "completion" else (*cells, "")
        prompt, *more = inputs
        if prompt is None or completion is None:
            rows.append(None)
            continue
        # Columns after the first may be blank, as the inputs of Alpaca are in three of five rows.
        rows.append(Row(("\n\n".join([prompt, *filter(None, more)]),), completion, row_group))
    return rows, notes
