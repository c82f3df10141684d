"""Rows of a question with several answers, one of which is right."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from string import ascii_uppercase as LETTERS
from typing import Any, NamedTuple

from autopeft.data.columns import Columns, as_label, as_string, beside, cells_of, check_named, in_order, usual
from autopeft.data.labels import label_column, with_labels
from autopeft.data.rows import Parts, Read, Row
from autopeft.data.sources import read
from autopeft.errors import DataError
from autopeft.extension import Target
from autopeft.records import DataSpec

QUESTION_NAMES = "question prompt sent1 context premise stem query ctx"
CHOICES_NAMES = "choices options answers endings"
LABEL_NAMES = "label answer answerkey answer_idx correct gold target"


class _Asked(NamedTuple):
    """A question with its choices, and the label as it is written.

    `keys` are the names that the choices have where they stand; none of a plain list.
    """

    row: Row
    time: Any
    where: str
    keys: tuple[str, ...]


# What a label may be; the first in which every row has one holds for the whole column, as single rows
# mislead: with the choices 4, 2, 0, 1 the label 2 is choice 0 by its number and choice 2 by its text.
_OWN, _NUMBERS, _LETTERS, _TEXTS = "names beside the choices", "numbers from 0", "letters", "texts of choices"
_READINGS: Mapping[str, Callable[[_Asked], Sequence[str]]] = {
    _OWN: lambda asked: asked.keys,
    _NUMBERS: lambda asked: [str(index) for index in range(len(asked.row.inputs) - 1)],
    _LETTERS: lambda asked: LETTERS if asked.row.label.isupper() else LETTERS.lower(),
    _TEXTS: lambda asked: [text.strip() for text in asked.row.inputs[1:]],
}


def read_choices(spec: DataSpec, notes: list[str]) -> Read:
    """A question, a list of choices, and which is right: its number from 0, its letter, or its text.

    `data.text_columns` may name the question and the choices, or the question and one column per choice.

    Raises:
        DataError: Columns are missing, rows differ in their number of choices, or a label names none.
    """
    name, tables = read(spec, notes)
    columns = _choose_columns(spec, tables["train"][0].column_names, notes)
    raw = {
        part: [asked for table in found for asked in _rows(part, table, columns)]
        for part, found in tables.items()
    }
    known = {asked.row.label for asked in raw["train"]}
    usable = {
        part: with_labels(part, rows, columns.label, known=known, kind="choice", notes=notes)
        for part, rows in raw.items()
    }
    every = [asked for rows in usable.values() for asked in rows]
    names = _names(every)
    right = iter(_right(every, columns.label, notes))
    parts: Parts = {}
    for part, rows in usable.items():
        named = [(asked.row._replace(label=names[next(right)]), asked.time) for asked in rows]
        parts[part] = in_order(part, named, columns.time)
    return Read(
        name=name,
        parts=parts,
        target=Target(kind="choice", names=names),
        input_columns=columns.inputs,
        label_column=columns.label,
        in_order=columns.time is not None,
    )


def _choose_columns(spec: DataSpec, names: Sequence[str], notes: list[str]) -> Columns:
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
    return Columns(inputs=(question, *choices), label=label, group=spec.group_column, time=spec.time_column)


def _rows(part: str, table: Any, columns: Columns) -> list[_Asked]:
    questions, *choices = (cells_of(part, table, name) for name in columns.inputs)
    labels = cells_of(part, table, columns.label, is_needed=part == "train")
    found = []
    cells = zip(questions, labels, *beside(part, table, columns), *choices, strict=True)
    for index, (question, label, group, time, *offered) in enumerate(cells):
        texts, keys = _offered(offered[0]) if len(offered) == 1 else (_strings(offered), ())
        asked = as_string(question, columns.inputs[0])
        row = Row((asked, *texts), as_label(label, columns.label), group)
        found.append(_Asked(row, time, f"row {index + 1} of {part}", keys))
    return found


def _offered(cell: Any) -> tuple[tuple[str | None, ...], tuple[str, ...]]:
    """A list of texts, or a record with one under `text` and their names under `label` (as ARC has it)."""
    texts, keys = (cell.get("text"), cell.get("label")) if isinstance(cell, Mapping) else (cell, ())
    if not isinstance(texts, list):
        return (), ()
    own: list[Any] = keys if isinstance(keys, list) and len(keys) == len(texts) else []
    return _strings(texts), tuple(str(key).strip() for key in own)


def _strings(cells: Sequence[Any]) -> tuple[str | None, ...]:
    """Choices as text, also blank ones; None where one is missing."""
    return tuple(None if cell is None or cell != cell else str(cell) for cell in cells)


def _names(rows: Sequence[_Asked]) -> tuple[str, ...]:
    """What the choices are called: letters, or numbers from 1 where those are too few.

    Raises:
        DataError: A question or choice is missing, or rows differ in their number of choices.
    """
    for asked in rows:
        if None in asked.row.inputs or len(asked.row.inputs) == 1:
            raise DataError(
                f"The question or a choice is missing in {asked.where}; complete or drop the row."
            )
    counts = {len(asked.row.inputs) - 1 for asked in rows}
    if len(counts) != 1:
        raise DataError(f"The rows have from {min(counts)} to {max(counts)} choices; all need as many.")
    n_choices = counts.pop()
    if n_choices < 2:
        raise DataError("Each row has one choice; at least 2 are needed.")
    if n_choices <= len(LETTERS):
        return tuple(LETTERS[:n_choices])
    return tuple(str(index + 1) for index in range(n_choices))


def _right(rows: Sequence[_Asked], column: str, notes: list[str]) -> list[int]:
    """Which choice is right in each row, by the first reading of the labels that all of them allow.

    Raises:
        DataError: There is none; the message names a row that the likeliest leaves out.
    """
    found = {reading: [_place(asked, reading) for asked in rows] for reading in _READINGS}
    likeliest = min(found, key=lambda reading: found[reading].count(None))  # the first of equals
    places = [place for place in found[likeliest] if place is not None]
    if len(places) < len(rows):
        asked = rows[found[likeliest].index(None)]
        raise DataError(
            f"The label {asked.row.label!r} of {asked.where} names none of its {len(asked.row.inputs) - 1} "
            f"choices, read as {likeliest}; write numbers from 0, letters from A, or the choices themselves, "
            "alike in every row."
        )
    if None not in found[_TEXTS] and found[_TEXTS] != places:
        notes.append(
            f"The labels in column {column} are read as {likeliest}, although they are also texts of other "
            "choices."
        )
    return places


def _place(asked: _Asked, reading: str) -> int | None:
    names = list(_READINGS[reading](asked))[: len(asked.row.inputs) - 1]
    return names.index(asked.row.label) if asked.row.label in names else None
