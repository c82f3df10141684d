"""Rows of one or two texts with a label: a class, several classes, or a number."""

from __future__ import annotations

import math
import re
import statistics
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from autopeft.data.cells import NUMBER, is_numeric
from autopeft.data.columns import (
    HIDDEN,
    Columns,
    cells_in,
    check_named,
    column_list,
    declared_names,
    first_usual_column,
    head_of,
    holds_strings,
    n_places_of,
    note_unread_texts,
    rows_of,
)
from autopeft.data.rows import USUAL_NAMES, Parts, Row, UncutRows
from autopeft.data.sources import listed, read
from autopeft.errors import DataError
from autopeft.extension import Target, TargetKind
from autopeft.records import DataSpec, counted, shortened

# Usual column names, the most telling first; case does not matter.
TEXT_NAMES = (
    "sentence1+sentence2 premise+hypothesis question1+question2 question+sentence text_a+text_b"
    " question+passage question+context question+answer query+passage query+document"
    " title+text title+content title+body title+abstract title+review headline+body subject+body"
    " text sentence content review body title query question utterance tweet document comment input prompt"
    " message headline"
)
_OPTIONAL = ("title", "headline", "subject")  # a text without one is a text still
LABEL_NAMES = (
    "label labels target class category intent sentiment emotion topic y gold_label rating stars score"
    " similarity_score"
)
WITHOUT_LABEL, WITHOUT_TEXT = "rows without a label", "rows without text"  # of `UncutRows.left_out`
_MOSTLY = 0.9  # share of the distinct labels that are numbers where numbers are learned; chosen by hand
MAX_LEVELS = 10  # more distinct numbers, some of them fractions, are a regression target; chosen by hand
_WITH_COMMA = re.compile(r"[-+]?\d+,\d+")
_LARGEST = 1e18  # size of a number to learn, whose square float32 still holds; chosen by hand


def read_texts(spec: DataSpec, notes: list[str]) -> UncutRows:
    """Labelled texts or pairs of texts; the labels decide the kind of the target."""
    name, tables = read(spec, notes)
    columns = _choose_columns(spec, tables["train"][0], notes)
    return labelled(spec, name, tables, columns=columns, notes=notes)


def labelled(
    spec: DataSpec, name: str, tables: Mapping[str, list[Any]], *, columns: Columns, notes: list[str]
) -> UncutRows:
    """Rows of some input columns and a label column, with their target.

    Raises a DataError if the labels cannot be learned from.
    """
    raw = _rows(spec, tables, columns, notes)
    kind = spec.label_kind or _kind([row.label for row in raw["train"]], columns.label)
    known = {label for row in raw["train"] for label in names_in(row.label)}
    parts: Parts = {}
    left_out = {}
    for part, rows in raw.items():
        with_label = with_labels(part, rows, columns.label, known=known, kind=kind, notes=notes)
        parts[part] = [row for row in with_label if None not in row.inputs]
        n_blank = len(with_label) - len(parts[part])
        if 2 * n_blank > len(with_label):
            raise DataError(
                f"{n_blank} of {len(with_label)} {part} rows have no text in {', '.join(columns.inputs)}; at "
                "most half may. Name another column with --text-column."
            )
        if n_blank:
            notes.append(f"Dropped {counted(n_blank, f'{part} row')} without text.")
        if part == "train":
            left_out[WITHOUT_LABEL] = len(rows) - len(with_label)
            left_out[WITHOUT_TEXT] = n_blank
    if kind == "number":
        parts = {part: _numbers(part, rows, columns.label) for part, rows in parts.items()}
        numbers = [float(row.label) for row in parts["train"]]
        mean, std = statistics.fmean(numbers), statistics.pstdev(numbers)
        if std == 0:
            raise DataError(
                f"Label column {columns.label} has only {mean:g} in train; at least 2 different numbers are "
                "needed."
            )
        target = Target(kind=kind, names=(columns.label,), mean=mean, std=std)
    else:
        if kind == "classes":  # a single label between lists stands for a list of one
            parts = {
                part: [row._replace(label=names_in(row.label)) for row in rows]
                for part, rows in parts.items()
            }
        declared = declared_names(tables["train"][0], columns.label)
        target = _classes(parts, kind, columns, declared=declared, notes=notes)
    return columns.uncut(name, parts, target, left_out=left_out)


def _rows(
    spec: DataSpec, tables: Mapping[str, list[Any]], columns: Columns, notes: list[str]
) -> dict[str, list[Row]]:
    """All rows of each part, with labels as text; lists of 0 and 1 are labels by their places."""
    n_places = n_places_of(tables["train"], columns.label) if spec.label_kind in (None, "classes") else 0
    if n_places:
        notes.append(
            f"Column {columns.label} holds {n_places} zeros and ones in each row, one for each label; the "
            f"labels are named 0 to {n_places - 1} by their places."
        )
    return {
        part: [
            row
            for table in part_tables
            for row in rows_of(part, table, columns, kind=spec.label_kind, n_places=n_places)
        ]
        for part, part_tables in tables.items()
    }


def names_in(label: Any) -> tuple[str, ...]:
    """The labels of one row: of a tuple those that are not None, a single label as a tuple of one."""
    if isinstance(label, tuple):
        return tuple(name for name in label if name is not None)
    return () if label is None else (label,)


class NoLabelColumnError(DataError):
    """There is no label column; `names` are the columns of the table."""

    def __init__(self, names: Sequence[str], *, remedy: str = "name it") -> None:
        """Say which columns there are; `remedy` stands before the flag that names the column."""
        columns = column_list(names)
        super().__init__(f"There is no label column among {columns}; {remedy} with --label-column.")
        self.names = tuple(names)


def label_column(
    spec: DataSpec,
    names: Sequence[str],
    *,
    inputs: Sequence[str],
    usual_names: str,
) -> str:
    """The label column that the spec names, or the one with a usual name; raises DataError without one."""
    label = spec.label_column or first_usual_column(
        [name for name in names if name not in inputs], usual_names
    )
    if not label:
        raise NoLabelColumnError(names)
    return label


def _choose_columns(spec: DataSpec, table: Any, notes: list[str]) -> Columns:
    names, texts = table.column_names, list(spec.text_columns)
    check_named(spec, names)
    head = head_of(table)
    label = label_column(spec, names, inputs=texts, usual_names=LABEL_NAMES)
    texts = texts or _find_texts(head, (label, spec.group_column, spec.time_column))
    if not texts:
        raise DataError(f"There is no text column among {column_list(names)}; name it with --text-column.")
    if label in texts or len(texts) > 2 or len(set(texts)) < len(texts):
        raise DataError(f"--text-column is {', '.join(texts)}; give 1 or 2 other than the label {label}.")
    of_texts = (
        f"texts are in the columns {' and '.join(texts)}" if texts[1:] else f"text is in column {texts[0]}"
    )
    notes.append(f"The {of_texts}, the label is in column {label}.")
    taken = {*texts, label, spec.group_column, spec.time_column}
    usual = [name for name in names if name.strip().lower() in LABEL_NAMES.split() and name not in taken]
    others = () if spec.label_column else tuple(usual)
    if others:
        have = "have" if len(others) > 1 else "has"
        notes.append(
            f"{listed(others)} {have} a usual name of labels too; name the label with --label-column."
        )
    if not spec.text_columns:
        note_unread_texts(table, (*texts, label, spec.group_column, spec.time_column), notes)
    return Columns(
        inputs=tuple(texts), label=label, group=spec.group_column, time=spec.time_column, other_labels=others
    )


def _find_texts(head: pa.Table, taken: Sequence[str | None]) -> list[str]:
    """The columns with the most telling names, or else the only column of strings; empty without either."""
    by_lower = {name.strip().lower(): name for name in head.column_names if name not in taken}
    for names in TEXT_NAMES.split():
        if not all(name in by_lower for name in names.split("+")):
            continue
        first, *more = [by_lower[name] for name in names.split("+")]
        if not more or first.lower() not in _OPTIONAL or all(cells_in(head, first)):
            return [first, *more]
    strings = [name for name in by_lower.values() if holds_strings(head, name)]
    # All cells of a csv file are strings; a column of numbers is an id or a count.
    texts = [name for name in strings if not is_numeric(cells_in(head, name))]
    return texts if len(texts) == 1 else []


def with_labels(
    part: str, rows: Sequence[Any], column: str, *, known: Collection[str], kind: str, notes: list[str]
) -> list[Any]:
    """The rows that have a label; raises DataError if no row of train has one.

    `rows` are of any type with a label; `known` are the labels of train, `kind` is the target's.
    """
    labels = {row.label for row in rows}
    # Test splits on the hub often hide their labels by writing -1 throughout.
    hides_labels = part != "train" and HIDDEN not in known and (kind != "number" or labels == {HIDDEN})
    missing = {None, HIDDEN} if hides_labels else {None}
    kept = [row for row in rows if row.label not in missing]
    if not kept and part == "train":
        raise DataError(
            f"No {part} row of {len(rows)} has a label in column {column}; training needs labels."
        )
    if not kept:
        notes.append(f"Left out the {part} part: no row of {len(rows)} has a label.")
    elif len(kept) < len(rows):
        notes.append(f"Dropped {counted(len(rows) - len(kept), f'{part} row')} without a label.")
    return kept


def _kind(labels: Sequence[Any], column: str) -> TargetKind:
    """`classes` for lists, `number` for many distinct numbers with fractions, else `class`.

    Up to a tenth of the distinct labels may be no numbers, so that typing errors are found later. Raises
    DataError for as many numbers with a comma, which may be decimals, thousands or two labels.
    """
    if any(isinstance(label, tuple) for label in labels):
        return "classes"
    levels = {label for label in labels if label is not None}
    numeric = [level for level in levels if NUMBER.fullmatch(level)]
    commas = sorted(level for level in levels if _WITH_COMMA.fullmatch(level))
    if len(numeric) + len(commas) > max(MAX_LEVELS, _MOSTLY * len(levels)) and commas:
        raise DataError(
            f"Column {column} has labels such as {commas[0]!r}, whose comma may be a decimal one, divide "
            "thousands, or divide several labels; write numbers as 1234.5, or set data.label_kind=classes "
            "(or class)."
        )
    has_fractions = len(numeric) > MAX_LEVELS and any("." in level for level in numeric)
    return "number" if has_fractions and len(numeric) >= _MOSTLY * len(levels) else "class"


def _numbers(part: str, rows: Sequence[Row], column: str) -> list[Row]:
    """Rows with labels as finite floats; raises DataError with the row of a label that is no number."""
    values = [float(row.label) if NUMBER.fullmatch(row.label) else math.nan for row in rows]
    faulty = [row for row, value in zip(rows, values, strict=True) if not abs(value) <= _LARGEST]
    if len(faulty) > 1:
        raise DataError(
            f"Label column {column} holds {shortened(faulty[0].label, 40)!r} in row {faulty[0].number} of "
            f"{part}, and {len(faulty)} of {len(rows)} labels are no numbers from -{_LARGEST:g} to "
            f"{_LARGEST:g}; write plain numbers such as 1234.5, or leave the cells empty."
        )
    if faulty:
        raise DataError(
            f"Label column {column} holds {shortened(faulty[0].label, 40)!r} in row {faulty[0].number} of "
            f"{part}, the others are numbers; write a number from -{_LARGEST:g} to {_LARGEST:g} there, or "
            "leave it empty."
        )
    return [row._replace(label=value) for row, value in zip(rows, values, strict=True)]


def _classes(
    parts: Parts, kind: TargetKind, columns: Columns, *, declared: Sequence[str], notes: list[str]
) -> Target:
    """The target of one or several classes; raises DataError if confirm or test have labels new to train."""
    counts = Counter(name for row in parts["train"] for name in names_in(row.label))
    names = order_of(counts, declared)
    if len(names) < 2:
        others = f"; is it {' or '.join(columns.other_labels)}? Name it with --label-column"
        raise DataError(
            f"Label column {columns.label} has only {list(names)} in train; at least 2 are needed"
            f"{others if columns.other_labels else ''}."
        )
    for part, rows in parts.items():
        if unknown := sorted({name for row in rows for name in names_in(row.label)} - set(counts)):
            label = unknown[0]
            numbers = [row.number for row in rows if label in names_in(row.label)]
            more = f" and {len(numbers) - 1} more" if len(numbers) > 1 else ""
            alike = next((name for name in names if name.casefold() == label.casefold()), None)
            near = f" (train has {alike!r})" if alike else ""
            raise DataError(
                f"The {USUAL_NAMES.get(part, part)} part has label {label!r} in row {numbers[0]}{more}, "
                f"which train lacks{near}; correct it there, drop such rows, or add some to train."
            )
    if absent := [name for name in declared if name not in counts]:
        notes.append(f"Left out labels that no train row has: {listed(absent)}.")
    return Target(kind=kind, names=names, counts=tuple(counts[name] for name in names))


def order_of(present: Iterable[str], declared: Sequence[str]) -> tuple[str, ...]:
    """Labels in the order of their declaration, or else sorted, numbers by value."""
    present = set(present)
    has_numbers = not declared and all(NUMBER.fullmatch(label) for label in present)
    by_value = sorted(present, key=lambda name: (float(name) if has_numbers else 0.0, name))
    return tuple([name for name in declared if name in present] or by_value)
