"""Reads rows of one or two texts with a label: a class, several classes, or a number."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import pyarrow as pa

from autopeft.data.cells import NUMBER, as_string
from autopeft.data.columns import (
    Columns,
    check_named,
    column_list,
    declared_names,
    head_of,
    holds_strings,
    holds_texts,
    label_column,
    rows_of,
)
from autopeft.data.dataset import UncutRows
from autopeft.data.sources import Source, read
from autopeft.errors import DataError
from autopeft.plugins import LabelKind
from autopeft.types import DataSpec

# Usual column names, the most telling first; case does not matter.
TEXT_NAMES = (
    "sentence1+sentence2 premise+hypothesis question1+question2 question+sentence text_a+text_b"
    " question+passage question+context question+answer title+text title+content"
    " text sentence content review question query tweet document comment input prompt"
)
_MOSTLY = 0.9  # share of the distinct labels that are numbers where numbers are learned; heuristic
MAX_LEVELS = 10  # more distinct numbers, some of them fractions, are a regression target; heuristic


def read_texts(spec: DataSpec) -> UncutRows:
    """Read labeled texts or pairs of texts; the labels decide which kind of label space it is."""
    source = read(spec)
    columns = _choose_columns(spec, source.tables["train"][0])
    of_texts = "texts are in the columns" if columns.inputs[1:] else "text is in column"
    note = f"The {of_texts} {' and '.join(columns.inputs)}, the label is in column {columns.label}."
    return labeled_rows(spec, source._replace(notes=(*source.notes, note)), columns)


def labeled_rows(
    spec: DataSpec, source: Source, columns: Columns, *, read_input: Callable[[Any, str], Any] = as_string
) -> UncutRows:
    """Read the rows of some columns; the labels decide their kind unless the spec does."""
    splits = source.rows(
        lambda split, table: rows_of(split, table, columns, kind=spec.label_kind, read_input=read_input)
    )
    return UncutRows(
        name=source.name,
        splits=splits,
        kind=spec.label_kind or _kind([row.label for row in splits["train"]]),
        input_columns=columns.inputs,
        label_column=columns.label,
        declared_names=declared_names(source.tables["train"][0], columns.label),
        notes=source.notes,
    )


def _choose_columns(spec: DataSpec, table: Any) -> Columns:
    """Choose the columns of the texts and of the label; raises DataError without."""
    names, texts = table.column_names, list(spec.text_columns)
    check_named(spec, names)
    label = label_column(spec, names, inputs=texts)
    texts = texts or _find_texts(head_of(table), {label, spec.group_column})
    if not texts:
        raise DataError(f"There is no text column among {column_list(names)}; name it with --text-column.")
    if label in texts or len(texts) > 2 or len(set(texts)) < len(texts):
        raise DataError(f"--text-column is {', '.join(texts)}; give 1 or 2 other than the label {label}.")
    return Columns(inputs=tuple(texts), label=label, group=spec.group_column)


def _find_texts(head: pa.Table, not_texts: Collection[str | None]) -> list[str]:
    """Find the columns with the most telling names, else the only one with texts of several words or strings.

    A pair is read only if each of the first rows has its first text: titles and headlines may be missing.
    """
    by_lower = {name.strip().lower(): name for name in head.column_names if name not in not_texts}
    for names in TEXT_NAMES.split():
        columns = [by_lower[name] for name in names.split("+") if name in by_lower]
        if len(columns) < len(names.split("+")):
            continue
        if len(columns) == 1 or all(head.column(columns[0]).to_pylist()):
            return columns
    strings = [name for name in by_lower.values() if holds_strings(head, name)]
    # All cells of a csv file are strings; a column of numbers is an id or a count.
    texts = [name for name in strings if holds_texts(head, name)] or [
        name
        for name in strings
        if not all(NUMBER.fullmatch(cell.strip()) for cell in head.column(name).to_pylist() if cell)
    ]
    return texts if len(texts) == 1 else []


def _kind(labels: Sequence[Any]) -> LabelKind:
    """Choose the kind: `classes` for lists, `number` for more than 10 numbers with fractions, else `class`.

    Up to a tenth of the distinct labels may be other texts: `_numbers` reports such typing errors.
    """
    if any(isinstance(label, tuple) for label in labels):
        return "classes"
    levels = {label for label in labels if label is not None}
    numeric = [level for level in levels if NUMBER.fullmatch(level)]
    has_fractions = len(numeric) > MAX_LEVELS and any("." in level for level in numeric)
    return "number" if has_fractions and len(numeric) >= _MOSTLY * len(levels) else "class"
