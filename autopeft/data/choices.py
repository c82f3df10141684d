"""Rows of a question with several answers, one of which is right."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from string import ascii_uppercase as LETTERS
from typing import Any, NamedTuple

from autopeft.data.cells import as_label, as_string, is_missing, refuse_written_lists
from autopeft.data.columns import (
    Columns,
    cells_of,
    check_named,
    column_list,
    first_usual_column,
    groups_and_times,
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


class _Question(NamedTuple):
    """One row: its inputs are the question and then the choices, its label is as written.

    `where` names the row in errors. `keys` are the choices' names in the data, such as A to D; () without.
    """

    row: Row
    where: str
    keys: tuple[str, ...]

    @property
    def choices(self) -> tuple[Any, ...]:
        return self.row.inputs[1:]

    @property
    def label(self) -> Any:
        return self.row.label


# Four readings of a label. The first one that fits every row is used for the whole column, since single rows
# mislead: with the choices 4, 2, 0, 1 the label 2 is choice 0 by its number and choice 2 by its text.
_READINGS: Mapping[str, Callable[[_Question], Sequence[str]]] = {
    "names of the choices": lambda question: question.keys,
    "numbers from 0": lambda question: [str(index) for index in range(len(question.choices))],
    "letters": lambda question: LETTERS if question.label.isupper() else LETTERS.lower(),
    "texts of choices": lambda question: [text.strip() for text in question.choices],
}


def read_choices(spec: DataSpec) -> UncutRows:
    """Read rows of a question and its choices, labeled with the right choice.

    The data may name the right choice by its number from 0, its letter, its own name or its text.
    `data.text_columns` may name the question and the choices, or the question and one column per choice.
    Raises a DataError if columns are missing, rows differ in their number of choices, or a label fits none.
    """
    source = read(spec)
    train_table = source.tables["train"][0]
    names = train_table.column_names
    check_named(spec, names)
    question = spec.text_columns[0] if spec.text_columns else first_usual_column(names, QUESTION_NAMES)
    choices = spec.text_columns[1:] or tuple(filter(None, [first_usual_column(names, CHOICES_NAMES)]))
    if not question or not choices:
        raise DataError(
            f"A column of questions and one of choices are needed among {column_list(names)}; name each with "
            "a --text-column of its own, the question first; choices may have one column each."
        )
    label = label_column(spec, names, inputs=[question, *choices], usual_names=LABEL_NAMES)
    notes = [f"The question is column {question}, the choices {', '.join(choices)}, the label {label}."]
    columns = Columns(
        inputs=(question, *choices), label=label, group=spec.group_column, time=spec.time_column
    )
    context = first_usual_column([name for name in names if name != question], CONTEXT_NAMES)
    if spec.text_columns or not context or not holds_texts(head_of(train_table), context):
        context = None
    else:  # RACE has the text that a question is about in its own column
        notes.append(f"The text of column {context} follows the question.")
    raw = source.rows(lambda split, table: _questions(split, table, columns, context))
    usable, label_notes = drop_unlabeled(raw, label)
    notes += label_notes
    all_questions = [row for questions in usable.values() for row in questions]
    choice_names = _choice_names(all_questions)
    next_indices = iter(_right_choices(all_questions))
    splits = {
        split: [row.row._replace(label=choice_names[next(next_indices)]) for row in questions]
        for split, questions in usable.items()
    }
    left_out = {WITHOUT_LABEL: len(raw["train"]) - len(splits["train"])}
    label_space = LabelSpace(kind="choice", names=choice_names)
    return columns.uncut(source, splits, label_space, left_out=left_out, notes=notes)


def _questions(split: str, table: Any, columns: Columns, context: str | None) -> list[_Question]:
    """Read the questions of a table; a missing question or choice is None."""
    questions, *choices = (cells_of(split, table, name) for name in columns.inputs)
    if len(choices) == 1:
        refuse_written_lists(choices[0], columns.inputs[1])
    labels = cells_of(split, table, columns.label, is_needed=split != "test")
    contexts = cells_of(split, table, context) if context else [None] * len(table)
    cells = zip(questions, contexts, labels, *groups_and_times(split, table, columns), *choices, strict=True)
    rows = []
    for index, (question, about, label, group, time, *offered) in enumerate(cells):
        texts: Any = offered
        names: Any = ()
        if len(offered) == 1:  # a list, or a record of two lists `text` and `label` as in ARC
            texts = offered[0]
            if isinstance(texts, Mapping):
                texts, names = texts.get("text"), texts.get("label")
            texts = texts if isinstance(texts, list) else []
            has_names = isinstance(names, list) and len(names) == len(texts)
            names = [str(name).strip() for name in names] if has_names else ()
        choices_as_text = (None if is_missing(cell) else str(cell) for cell in texts)  # blank ones too
        texts_before = (as_string(cell, columns.inputs[0]) for cell in (question, about))
        text = "\n\n".join(filter(None, texts_before)) or None
        row = Row((text, *choices_as_text), as_label(label, columns.label), group, time, index + 1)
        rows.append(_Question(row, f"row {index + 1} of {split}", tuple(names)))
    return rows


def _choice_names(questions: Sequence[_Question]) -> tuple[str, ...]:
    """Name the choices A to Z, or 1 to n beyond; DataError unless all rows have equally many, 2 or more."""
    for question in questions:
        if None in question.row.inputs or not question.choices:
            raise DataError(f"The question or a choice is missing in {question.where}; complete or drop it.")
    counts = {len(question.choices) for question in questions}
    if len(counts) != 1:
        raise DataError(f"The rows have {min(counts)} to {max(counts)} choices; give all the same number.")
    n_choices = counts.pop()
    if n_choices < 2:
        raise DataError("Each row has one choice; at least 2 are needed.")
    return tuple(LETTERS[:n_choices] if n_choices <= len(LETTERS) else map(str, range(1, n_choices + 1)))


def _right_choices(questions: Sequence[_Question]) -> list[int]:
    """Find each right choice by the first of `_READINGS` that fits all labels; else DataError."""
    indices: dict[str, list[int | None]] = {}
    for reading, names_of in _READINGS.items():
        named = [
            (list(names_of(question))[: len(question.choices)], question.label) for question in questions
        ]
        indices[reading] = [names.index(label) if label in names else None for names, label in named]
    best = min(indices, key=lambda reading: indices[reading].count(None))  # the first of equals
    right = [index for index in indices[best] if index is not None]
    if len(right) < len(questions):
        question = questions[indices[best].index(None)]
        raise DataError(
            f"The label {question.label!r} of {question.where} names none of its "
            f"{len(question.choices)} choices, read as {best}; write numbers from 0, letters from A, or the "
            "texts of the choices, alike in every row."
        )
    return right
