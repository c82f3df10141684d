"""Rows of one or two texts with a label: a class, several classes, or a number."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from autopeft.data.cells import NUMBER, as_string
from autopeft.data.columns import (
    HIDDEN,
    Columns,
    check_named,
    column_list,
    declared_names,
    first_usual_column,
    head_of,
    holds_strings,
    holds_texts,
    rows_of,
)
from autopeft.data.dataset import USUAL_NAMES, Row, SplitRows, UncutRows
from autopeft.data.sources import Source, read
from autopeft.errors import DataError
from autopeft.plugins import LabelKind, LabelSpace
from autopeft.types import DataSpec, counted, shortened

# Usual column names, the most telling first; case does not matter.
TEXT_NAMES = (
    "sentence1+sentence2 premise+hypothesis question1+question2 question+sentence text_a+text_b"
    " question+passage question+context question+answer title+text title+content"
    " text sentence content review question query tweet document comment input prompt"
)
LABEL_NAMES = "label labels target class category intent sentiment emotion topic rating stars score"
WITHOUT_LABEL, WITHOUT_TEXT = "rows without a label", "rows without text"  # keys of `UncutRows.left_out`
_MOSTLY = 0.9  # share of the distinct labels that are numbers where numbers are learned; heuristic
MAX_LEVELS = 10  # more distinct numbers, some of them fractions, are a regression target; heuristic
_LARGEST = 1e18  # absolute value of a number to learn; float32 still holds its square; heuristic


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
    """Read rows from some columns, drop those without input or label, and describe the label space.

    Raises a DataError if the labels cannot be learned from.
    """
    raw = source.rows(
        lambda split, table: rows_of(split, table, columns, kind=spec.label_kind, read_input=read_input)
    )
    kind = spec.label_kind or _kind([row.label for row in raw["train"]])
    labeled, notes = drop_unlabeled(raw, columns.label, are_numbers=kind == "number")
    splits: SplitRows = {}
    for split, rows in labeled.items():
        splits[split] = [row for row in rows if None not in row.inputs]
        if n_blank := len(rows) - len(splits[split]):
            notes.append(f"Dropped {counted(n_blank, f'{split} row')} without text.")
    if kind == "number":
        splits = {split: _numbers(split, rows, columns.label) for split, rows in splits.items()}
        label_space = _number_space([float(row.label) for row in splits["train"]], columns.label)
    else:
        if kind == "classes":  # a single label next to lists means a list of one
            splits = {
                split: [row._replace(label=names_in(row.label)) for row in rows]
                for split, rows in splits.items()
            }
        declared = declared_names(source.tables["train"][0], columns.label)
        label_space = _class_space(splits, kind, columns.label, declared=declared)
    return UncutRows(
        name=source.name,
        splits=splits,
        label_space=label_space,
        input_columns=columns.inputs,
        label_column=columns.label,
        left_out={
            WITHOUT_LABEL: len(raw["train"]) - len(labeled["train"]),
            WITHOUT_TEXT: len(labeled["train"]) - len(splits["train"]),
        },
        notes=(*source.notes, *notes),
    )


def names_in(label: Any) -> tuple[str, ...]:
    """List the labels of one row: the items of a tuple that are not None, or the one label; () for None."""
    if isinstance(label, tuple):
        return tuple(name for name in label if name is not None)
    return () if label is None else (label,)


def label_column(spec: DataSpec, names: Sequence[str], *, inputs: Sequence[str], usual_names: str) -> str:
    """Choose the label column: the spec's, else the one with a usual name; DataError without."""
    candidates = [name for name in names if name not in inputs]
    label = spec.label_column or first_usual_column(candidates, usual_names)
    if not label:
        raise DataError(
            f"There is no label column among {column_list(names)}; name it with --label-column, or set "
            "--task: text-generation for chats and for prompts with completions, token-classification for "
            "lists of tokens."
        )
    return label


def _choose_columns(spec: DataSpec, table: Any) -> Columns:
    """Choose the columns of the texts and of the label; raises DataError without."""
    names, texts = table.column_names, list(spec.text_columns)
    check_named(spec, names)
    label = label_column(spec, names, inputs=texts, usual_names=LABEL_NAMES)
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


def drop_unlabeled(
    rows: Mapping[str, list[Row]], column: str, *, are_numbers: bool = False
) -> tuple[SplitRows, list[str]]:
    """Drop the rows without a label from all splits, with notes; DataError if no train row has a label."""
    kept: SplitRows = {}
    notes = []
    is_class = any(HIDDEN in names_in(row.label) for row in rows["train"])
    for split, of_split in rows.items():
        labels = {row.label for row in of_split}
        # Test splits on the hub often hide their labels by writing -1 throughout.
        hides_labels = split != "train" and not is_class and (not are_numbers or labels == {HIDDEN})
        missing = {None, HIDDEN} if hides_labels else {None}
        kept[split] = [row for row in of_split if row.label not in missing]
        if not kept[split] and split == "train":
            raise DataError(
                f"No train row of {len(of_split)} has a label in column {column}; training needs labels."
            )
        if not kept[split]:
            notes.append(f"Left out the {split} split: no row of {len(of_split)} has a label.")
        elif n_dropped := len(of_split) - len(kept[split]):
            notes.append(f"Dropped {counted(n_dropped, f'{split} row')} without a label.")
    return kept, notes


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


def _numbers(split: str, rows: Sequence[Row], column: str) -> list[Row]:
    """Turn labels into finite floats; raises DataError with the first row where that fails."""
    values = [float(row.label) if NUMBER.fullmatch(row.label) else math.nan for row in rows]
    faulty = [row for row, value in zip(rows, values, strict=True) if not abs(value) <= _LARGEST]
    if faulty:
        raise DataError(
            f"Label column {column} holds {shortened(faulty[0].label, 40)!r} in row {faulty[0].number} of "
            f"{split}, not a number from -{_LARGEST:g} to {_LARGEST:g}. Write plain numbers such as 1234.5, "
            "or leave the cell empty."
        )
    return [row._replace(label=value) for row, value in zip(rows, values, strict=True)]


def _number_space(numbers: Sequence[float], column: str) -> LabelSpace:
    mean, std = statistics.fmean(numbers), statistics.pstdev(numbers)
    if std == 0:
        raise DataError(
            f"Label column {column} has only {mean:g} in train; at least 2 different numbers are needed."
        )
    return LabelSpace(kind="number", names=(column,), mean=mean, std=std)


def _class_space(splits: SplitRows, kind: LabelKind, column: str, *, declared: Sequence[str]) -> LabelSpace:
    """Describe classes; DataError if train has less than 2, or another split has a new one."""
    counts = Counter(name for row in splits["train"] for name in names_in(row.label))
    names = order_of(counts, declared)
    if len(names) < 2:
        raise DataError(
            f"Label column {column} has only {list(names)} in train; at least 2 are needed. Name the label "
            "column with --label-column."
        )
    for split, rows in splits.items():
        for row in rows:
            if unknown := set(names_in(row.label)) - counts.keys():
                raise DataError(
                    f"The {USUAL_NAMES[split]} split has label {min(unknown)!r} in row {row.number}, which "
                    "train does not have; correct it there, drop such rows, or add some to train."
                )
    return LabelSpace(kind=kind, names=names, counts=tuple(counts[name] for name in names))


def order_of(present: Iterable[str], declared: Sequence[str]) -> tuple[str, ...]:
    """Sort the labels that occur as they are declared, else by text, or by value if all are numbers."""
    present = set(present)
    has_numbers = not declared and all(NUMBER.fullmatch(label) for label in present)
    by_value = sorted(present, key=lambda name: (float(name) if has_numbers else 0.0, name))
    return tuple([name for name in declared if name in present] or by_value)
