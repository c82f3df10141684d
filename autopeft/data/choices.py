"""Rows of a question with several answers, one of which is right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autopeft.data.columns import as_string, check_named, usual
from autopeft.data.labels import label_column
from autopeft.data.rows import Parts, Read, Row
from autopeft.data.sources import read
from autopeft.errors import DataError
from autopeft.extension import Target
from autopeft.records import DataSpec

QUESTION_NAMES = "question prompt sent1 context premise stem query ctx"
CHOICES_NAMES = "choices options answers endings"
LABEL_NAMES = "label answer answerkey answer_idx correct gold target"
LETTERS = "ABCDEFGHIJ"


def read_choices(spec: DataSpec, notes: list[str]) -> Read:
    """A question, a list of choices, and which is right: its number from 0, its letter, or its text.

    `data.text_columns` may name the question and the choices, or the question and one column per choice.

    Raises:
        DataError: Columns are missing, rows differ in their number of choices, or a label names none.
    """
    name, tables = read(spec, notes)
    names = tables["train"][0].column_names
    check_named(spec, names)
    question = spec.text_columns[0] if spec.text_columns else usual(names, QUESTION_NAMES)
    choices = spec.text_columns[1:] or tuple(filter(None, [usual(names, CHOICES_NAMES)]))
    if not question or not choices:
        raise DataError(
            f"A column of questions and one of choices are needed among {', '.join(names)}; name them in "
            "data.text_columns, the question first."
        )
    label = label_column(spec, names, inputs=[question, *choices], known=LABEL_NAMES)
    notes.append(f"The question is column {question}, the choices {', '.join(choices)}, the label {label}.")
    parts: Parts = {}
    for part, found in tables.items():
        rows = [row for table in found for row in _rows(part, table, [question, *choices], label)]
        parts[part] = rows
    counts = {len(row.inputs) - 1 for rows in parts.values() for row in rows}
    if len(counts) != 1:
        raise DataError(f"The rows have from {min(counts)} to {max(counts)} choices; all need as many.")
    n_choices = counts.pop()
    if n_choices < 2:
        raise DataError("Each row has one choice; at least 2 are needed.")
    return Read(
        name=name,
        parts=parts,
        target=Target(kind="choice", names=tuple(LETTERS[:n_choices])),
        input_columns=(question, *choices),
        label_column=label,
    )


def _rows(part: str, table: Any, columns: Sequence[str], label: str) -> list[Row]:
    for name in (*columns, label):
        if name not in table.column_names:
            raise DataError(f"A {part} table lacks column {name}; it has {', '.join(table.column_names)}.")
    found = []
    cells = zip(*(table[name] for name in (*columns, label)), strict=True)
    for index, (question, *offered, right) in enumerate(cells):
        texts = _texts(offered[0]) if len(offered) == 1 else [str(choice) for choice in offered]
        asked = as_string(question, columns[0])
        if asked is None or not texts or right is None:
            raise DataError(f"Row {index + 1} of {part} lacks its question, choices or label; complete it.")
        found.append(Row((asked, *texts), LETTERS[_index(right, texts, f"row {index + 1} of {part}")]))
    return found


def _texts(cell: Any) -> list[str]:
    """A list of texts, or a record with one under `text` (as ARC and CommonsenseQA have it)."""
    if isinstance(cell, Mapping):
        cell = cell.get("text")
    return [str(choice) for choice in cell] if isinstance(cell, list) else []


def _index(right: Any, texts: Sequence[str], where: str) -> int:
    word = str(right).strip()
    if word in texts:
        return list(texts).index(word)
    if word.upper() in LETTERS[: len(texts)] and word:
        return LETTERS.index(word.upper())
    if word.isdigit() and int(word) < len(texts):
        return int(word)
    raise DataError(
        f"The label {word!r} of {where} names none of its {len(texts)} choices; write a number from 0, "
        "a letter from A, or the choice itself."
    )
