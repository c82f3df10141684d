"""Rows of a question with several answers, one of which is right."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from string import ascii_uppercase as LETTERS
from typing import Any

from autopeft.data.cells import as_label, as_string, is_missing, refuse_written_lists
from autopeft.data.columns import (
    Columns,
    cells_of,
    check_named,
    column_list,
    first_usual_column,
    groups_in,
    head_of,
    holds_texts,
)
from autopeft.data.dataset import Row, UncutRows
from autopeft.data.labels import WITHOUT_LABEL, drop_unlabeled, label_column
from autopeft.data.sources import read
from autopeft.errors import DataError
from autopeft.plugins import LabelSpace
from autopeft.types import DataSpec

QUESTION_NAMES = "question prompt sent1 context ctx"
CONTEXT_NAMES = "article passage context"
CHOICES_NAMES = "choices options answers endings"
LABEL_NAMES = "label answer answerkey correct gold target"


# Three readings of a label: the names of a row's choices. The first one that fits every row is used for the
# whole column, since single rows mislead: with the choices 4, 2, 0, 1 the label 2 is choice 0 by its number
# and choice 2 by its text.
_READINGS: Mapping[str, Callable[[Row], Sequence[str]]] = {
    "numbers from 0": lambda row: [str(index) for index in range(len(row.inputs) - 1)],
    "letters": lambda row: LETTERS if row.label.isupper() else LETTERS.lower(),
    "texts of choices": lambda row: [text.strip() for text in row.inputs[1:]],
}


def read_choices(spec: DataSpec) -> UncutRows:
    """Read rows of a question and its choices, labeled with the right choice.

    The data may name the right choice by its number from 0, its letter, its own name or its text.
    `data.text_columns` may name the question and the choices, or the question and one column per choice.
    Raises a DataError if columns are missing, rows differ in their number of choices, or a label fits none.
    """
    source = read(spec)
    columns, context = _choose_columns(spec, source.tables["train"][0])
    raw = source.rows(lambda split, table: _rows(split, table, columns, context))
    splits, notes = drop_unlabeled(raw, columns.label)
    rows = [row for of_split in splits.values() for row in of_split]
    counts = {len(row.inputs) - 1 for row in rows}
    n_choices = max(counts)
    if len(counts) > 1 or n_choices < 2:
        raise DataError(
            f"The rows have {min(counts)} to {n_choices} choices; give all the same number, at least 2."
        )
    names = tuple(LETTERS[:n_choices] if n_choices <= len(LETTERS) else map(str, range(1, n_choices + 1)))
    right = iter(_right_choices(rows))
    splits = {
        split: [row._replace(label=names[next(right)]) for row in rows] for split, rows in splits.items()
    }
    question, *choices = columns.inputs
    where = f"The question is column {question}, the choices {', '.join(choices)}, the label {columns.label}."
    if context:
        where += f" The text of column {context} follows the question."
    return UncutRows(
        name=source.name,
        splits=splits,
        label_space=LabelSpace(kind="choice", names=names),
        input_columns=columns.inputs,
        label_column=columns.label,
        left_out={WITHOUT_LABEL: len(raw["train"]) - len(splits["train"])},
        notes=(*source.notes, where, *notes),
    )


def _choose_columns(spec: DataSpec, table: Any) -> tuple[Columns, str | None]:
    """Choose the columns of questions, choices and labels, and the one of texts that questions are about."""
    names = table.column_names
    check_named(spec, names)
    question = spec.text_columns[0] if spec.text_columns else first_usual_column(names, QUESTION_NAMES)
    choices = spec.text_columns[1:] or tuple(filter(None, [first_usual_column(names, CHOICES_NAMES)]))
    if not question or not choices:
        raise DataError(
            f"A column of questions and one of choices are needed among {column_list(names)}; name each with "
            "a --text-column of its own, the question first; choices may have one column each."
        )
    label = label_column(spec, names, inputs=[question, *choices], usual_names=LABEL_NAMES)
    context = first_usual_column([name for name in names if name != question], CONTEXT_NAMES)
    if spec.text_columns or not context or not holds_texts(head_of(table), context):
        context = None
    return Columns(inputs=(question, *choices), label=label, group=spec.group_column), context


def _rows(split: str, table: Any, columns: Columns, context: str | None) -> list[Row]:
    """Read the rows of a table, with the question and the choices as inputs."""
    questions, *choices = (cells_of(split, table, name) for name in columns.inputs)
    if len(choices) == 1:
        refuse_written_lists(choices[0], columns.inputs[1])
    labels = cells_of(split, table, columns.label, is_needed=split != "test")
    contexts = cells_of(split, table, context) if context else [None] * len(table)
    cells = zip(questions, contexts, labels, groups_in(split, table, columns.group), *choices, strict=True)
    rows = []
    for number, (question, about, cell, group, *offered) in enumerate(cells, start=1):
        texts, names = (offered, []) if len(offered) > 1 else _listed_choices(offered[0])
        label = as_label(cell, columns.label)
        if label in names:
            label = str(names.index(label))
        question_texts = [as_string(text, columns.inputs[0]) for text in (question, about)]
        inputs = ["\n\n".join(filter(None, question_texts)), *texts]
        if label is not None and (not inputs[0] or len(inputs) == 1 or any(map(is_missing, texts))):
            raise DataError(
                f"The question or a choice is missing in row {number} of {split}; complete or drop it."
            )
        rows.append(Row(tuple(map(str, inputs)), label, group, number))
    return rows


def _listed_choices(cell: Any) -> tuple[list[Any], list[str]]:
    """Read the texts and names of choices from a list, or a record of lists `text` and `label` as in ARC."""
    texts, names = (cell.get("text"), cell.get("label")) if isinstance(cell, Mapping) else (cell, None)
    return list(texts or ()), [str(name).strip() for name in names or ()]


def _right_choices(rows: Sequence[Row]) -> list[int]:
    """Find each right choice by the first of `_READINGS` that fits all labels; else DataError."""
    indices: dict[str, list[int | None]] = {}
    for reading, names_of in _READINGS.items():
        named = [(list(names_of(row))[: len(row.inputs) - 1], row.label) for row in rows]
        indices[reading] = [names.index(label) if label in names else None for names, label in named]
    best = min(indices, key=lambda reading: indices[reading].count(None))  # the first of equals
    right = [index for index in indices[best] if index is not None]
    if len(right) < len(rows):
        row = rows[indices[best].index(None)]
        raise DataError(
            f"The label {row.label!r} in row {row.number} names none of {', '.join(row.inputs[1:])}, read as "
            f"{best}; write numbers from 0, letters from A, or the texts of the choices, alike in every row."
        )
    return right
