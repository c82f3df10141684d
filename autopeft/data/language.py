"""Rows for language models: prompts with completions, chats, or documents."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from autopeft.data.cells import as_string, refuse_written_lists
from autopeft.data.chats import chat_row, holds_messages
from autopeft.data.columns import cells_of, check_named, column_list, first_usual_column, groups_in
from autopeft.data.dataset import Row, SplitRows, UncutRows
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
CHAT_NAMES = "messages conversations"
TRANSLATION = "translation"  # a column of records with a text in each language, as WMT and OPUS have it
TEXT_NAMES = "text content document"
SYSTEM, TOOLS = "system", "tools"  # columns next to chats
# A prompt in more than a tenth of the train rows, and in more than 10, is a fixed instruction rather than a
# question; heuristic.
_FIXED_SHARE, _FIXED_AT_LEAST = 10, 10


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """The kind of a dataset's rows (`plugins.LabelSpace.kind`), and the columns that hold them.

    `completion` is None for chats, and if all of a text is learned.
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
        """What is learned after a prompt; empty if all of a text is learned."""
        return "the assistant's answers" if self.kind == "chat" else self.completion or ""

    @property
    def note(self) -> str:
        """A sentence on what is learned."""
        if self.kind == "documents":
            return f"All of column {self.inputs[0]} is learned."
        prompt = filter(None, (self.tools, self.system, *self.inputs))
        return f"The model learns to write {self.label} after {' and '.join(prompt)}."


def read_language(spec: DataSpec) -> UncutRows:
    """Read rows of text; rows with the same prompt form a group, so that no two splits share a prompt.

    Raises a DataError without a column to learn from, or if a row does not hold what its column should.
    """
    source = read(spec)
    if TRANSLATION in source.tables["train"][0].column_names:
        # One column for each language: `translation.de`, `translation.en`.
        source = source.with_tables(lambda table: table.flatten())
    layout = _choose_layout(spec, source.tables["train"][0])
    raw = source.rows(lambda split, table: _rows(split, table, layout, group=spec.group_column))
    splits: SplitRows = {split: [row for row in rows if row is not None] for split, rows in raw.items()}
    train = splits["train"]
    notes = [*source.notes, layout.note]
    noun, lack = ("chat", "an answer at the end") if layout.kind == "chat" else ("row", "text")
    for split, rows in raw.items():
        if n_dropped := len(rows) - len(splits[split]):
            notes.append(f"Dropped {counted(n_dropped, f'{split} {noun}')} without {lack}.")
    if layout.kind == "chat" and not train:
        raise DataError(
            f"No train chat of {len(raw['train'])} ends with the assistant's answer to something; add the "
            "answers, since they are what is learned."
        )
    shared = _fixed_prompts(train) if layout.label else frozenset[tuple[Any, ...]]()
    if shared:
        notes.append(
            f"{sum(row.inputs in shared for row in train)} of {len(train)} train rows have the same "
            f"{counted(len(shared), 'prompt')}: splits share such instructions, and rows are duplicates only "
            "if the completion is the same, too."
        )
    if layout.label and spec.group_column is None:
        n_rows = Counter(row.inputs for row in train)
        splits["train"] = [
            row._replace(group=" ".join(row.inputs))
            if n_rows[row.inputs] > 1 and row.inputs not in shared
            else row
            for row in train
        ]
    return UncutRows(
        name=source.name,
        splits=splits,
        label_space=LabelSpace(kind=layout.kind),
        input_columns=layout.inputs,
        label_column=layout.label,
        may_repeat=bool(layout.label),
        shared_inputs=shared,
        left_out={WITHOUT_TEXT: len(raw["train"]) - len(train)},
        notes=tuple(notes),
    )


def _fixed_prompts(rows: list[Row]) -> frozenset[tuple[Any, ...]]:
    """Find the prompts of so many rows that they are instructions rather than questions."""
    limit = max(_FIXED_AT_LEAST, len(rows) // _FIXED_SHARE)
    n_rows = Counter(row.inputs for row in rows)
    return frozenset(inputs for inputs, n in n_rows.items() if n > limit)


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
            return _Layout(kind="chat", inputs=(chat,), system=system, tools=tools)
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
        return _Layout(kind="completion", inputs=inputs or input_columns, completion=completion)
    text = first_usual_column(names, TEXT_NAMES)
    if text is None:
        raise DataError(
            f"There is neither a text nor a prompt with a completion among {column_list(names)}; name the "
            "columns with --text-column and --label-column."
        )
    return _Layout(kind="documents", inputs=(text,))


def _rows(split: str, table: Any, layout: _Layout, *, group: str | None) -> list[Row | None]:
    """Read the rows of a table, None for a row without text."""
    columns = [cells_of(split, table, name) for name in layout.columns]
    groups = groups_in(split, table, group)
    if layout.kind == "chat":
        systems = cells_of(split, table, layout.system or SYSTEM, is_needed=False)
        tools = cells_of(split, table, layout.tools or TOOLS, is_needed=False)
        chats = enumerate(zip(columns[0], groups, systems, tools, strict=True), start=1)
        return [
            chat_row(f"Row {n} of {split}", turns, row_group, system=as_string(message, SYSTEM), tools=some)
            for n, (turns, row_group, message, some) in chats
        ]
    texts = [
        [as_string(cell, name) for cell in cells] for name, cells in zip(layout.columns, columns, strict=True)
    ]
    rows: list[Row | None] = []
    for cells, row_group in zip(zip(*texts, strict=True), groups, strict=True):
        prompt, *more = cells if layout.completion is None else cells[:-1]
        completion = "" if layout.completion is None else cells[-1]
        if prompt is None or completion is None:
            rows.append(None)
        else:  # columns after the first may be blank, as the inputs of Alpaca are in three of five rows
            rows.append(Row(("\n\n".join([prompt, *filter(None, more)]),), completion, row_group))
    return rows
