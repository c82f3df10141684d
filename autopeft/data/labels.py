"""Rows of one or two texts with a label: a class, several classes, or a number."""

from __future__ import annotations

import math
import re
import shlex
import statistics
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import pyarrow as pa

from autopeft.data.cells import NUMBER, is_numeric
from autopeft.data.columns import (
    HAS_LABEL,
    HIDDEN,
    Columns,
    cells_in,
    check_named,
    column_list,
    declared_names,
    first_usual_column,
    head_of,
    holds_strings,
    holds_texts,
    join_labels,
    notes_on_unread_texts,
    rows_of,
)
from autopeft.data.dataset import USUAL_NAMES, Parts, Row, UncutRows
from autopeft.data.sources import Source, read
from autopeft.errors import DataError
from autopeft.plugins import LabelKind, LabelSpace
from autopeft.types import DataSpec, counted, listed, shortened

# Usual column names, the most telling first; case does not matter.
TEXT_NAMES = (
    "sentence1+sentence2 premise+hypothesis question1+question2 question+sentence text_a+text_b"
    " question+passage question+context question+answer query+passage query+document"
    " title+text title+content title+body title+abstract title+review headline+body subject+body"
    " text sentence content review body title query question utterance tweet document comment input prompt"
    " message headline"
)
_OPTIONAL = ("title", "headline", "subject")  # a pair that begins so is read only if no row lacks it
LABEL_NAMES = (
    "label labels target class category intent sentiment emotion topic y gold_label rating stars score"
    " similarity_score"
)
WITHOUT_LABEL, WITHOUT_TEXT = "rows without a label", "rows without text"  # keys of `UncutRows.left_out`
_MOSTLY = 0.9  # share of the distinct labels that are numbers where numbers are learned; chosen by hand
MAX_LEVELS = 10  # more distinct numbers, some of them fractions, are a regression target; chosen by hand
_WITH_COMMA = re.compile(r"[-+]?\d+,\d+")  # 3,5 or 1,234
_LARGEST = 1e18  # absolute value of a number to learn; float32 still holds its square; chosen by hand


def read_texts(spec: DataSpec) -> UncutRows:
    """Read labelled texts or pairs of texts; the labels decide what kind of target they are."""
    source = read(spec)
    tables = {
        part: [join_labels(table, spec.label_column) for table in of_part]
        for part, of_part in source.tables.items()
    }
    columns, notes = _choose_columns(spec, tables["train"][0])
    return labelled(spec, Source(source.name, tables, (*source.notes, *notes)), columns=columns)


def labelled(spec: DataSpec, source: Source, *, columns: Columns) -> UncutRows:
    """Read rows from some columns, drop those without text or label, and describe the labels as a target.

    Raises a DataError if the labels cannot be learned from, or more than half of the rows lack text.
    """
    notes = []
    raw = {
        part: [row for table in tables for row in rows_of(part, table, columns, kind=spec.label_kind)]
        for part, tables in source.tables.items()
    }
    kind = spec.label_kind or _kind([row.label for row in raw["train"]], columns.label)
    train_labels = {label for row in raw["train"] for label in names_in(row.label)}
    parts: Parts = {}
    left_out = {}
    for part, rows in raw.items():
        with_label, label_notes = with_labels(
            part, rows, columns.label, train_labels=train_labels, are_numbers=kind == "number"
        )
        notes += label_notes
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
            left_out = {WITHOUT_LABEL: len(rows) - len(with_label), WITHOUT_TEXT: n_blank}
    if kind == "number":
        parts = {part: _numbers(part, rows, columns.label) for part, rows in parts.items()}
        numbers = [float(row.label) for row in parts["train"]]
        mean, std = statistics.fmean(numbers), statistics.pstdev(numbers)
        if std == 0:
            raise DataError(
                f"Label column {columns.label} has only {mean:g} in train; at least 2 different numbers are "
                "needed."
            )
        label_space = LabelSpace(kind=kind, names=(columns.label,), mean=mean, std=std)
    else:
        if kind == "classes":  # a single label between lists stands for a list of one
            parts = {
                part: [row._replace(label=names_in(row.label)) for row in rows]
                for part, rows in parts.items()
            }
        declared = declared_names(source.tables["train"][0], columns.label)
        label_space = _classes(parts, kind, columns, declared=declared)
        if absent := [name for name in declared if name not in label_space.names]:
            notes.append(f"Left out labels that no train row has: {listed(absent)}.")
        by_case = {name.casefold(): name for name in label_space.names}
        if alike := [name for name in label_space.names if by_case[name.casefold()] != name]:
            pair = f"{alike[0]!r} and {by_case[alike[0].casefold()]!r}"
            notes.append(f"Labels such as {pair} differ in case alone; write them alike if they are one.")
    return columns.uncut(source, parts, label_space, left_out=left_out, notes=notes)


def names_in(label: Any) -> tuple[str, ...]:
    """List the labels of one row: the items of a tuple that are not None, or the one label; () for None."""
    if isinstance(label, tuple):
        return tuple(name for name in label if name is not None)
    return () if label is None else (label,)


class NoLabelColumnError(DataError):
    """A table has no label column; `names` are its columns."""

    def __init__(self, names: Sequence[str], *, remedy: str = "name it", guess: str = "") -> None:
        """Name the columns, what to do (`remedy`, before the flag), and flags that may be right."""
        columns, guess = column_list(names), guess and f", perhaps {guess}"
        super().__init__(f"There is no label column among {columns}; {remedy} with --label-column{guess}.")
        self.names = tuple(names)


def label_column(spec: DataSpec, names: Sequence[str], *, inputs: Sequence[str], usual_names: str) -> str:
    """Choose the label column: the spec's, else the one with a usual name; else raise NoLabelColumnError."""
    candidates = [name for name in names if name not in inputs]
    label = spec.label_column or first_usual_column(candidates, usual_names)
    if not label:
        raise NoLabelColumnError(names)
    return label


def _choose_columns(spec: DataSpec, table: Any) -> tuple[Columns, list[str]]:
    """Choose the columns of the texts and of the label, and name them in notes; raises DataError without."""
    names, texts = table.column_names, list(spec.text_columns)
    check_named(spec, names)
    try:
        label = label_column(spec, names, inputs=texts, usual_names=LABEL_NAMES)
    except NoLabelColumnError as error:
        raise NoLabelColumnError(names, guess=_guess(head_of(table), texts)) from error
    not_texts = {label, spec.group_column, spec.time_column}
    texts = texts or _find_texts(head_of(table), not_texts)
    if not texts:
        raise DataError(f"There is no text column among {column_list(names)}; name it with --text-column.")
    if label in texts or len(texts) > 2 or len(set(texts)) < len(texts):
        raise DataError(f"--text-column is {', '.join(texts)}; give 1 or 2 other than the label {label}.")
    of_texts = "texts are in the columns" if texts[1:] else "text is in column"
    notes = [f"The {of_texts} {' and '.join(texts)}, the label is in column {label}."]
    other_labels: list[str] = []
    if spec.label_column is None:
        unused = [name for name in names if name not in (*texts, *not_texts)]
        other_labels = [name for name in unused if name.strip().lower() in LABEL_NAMES.split()]
    if other_labels:
        have = "have" if len(other_labels) > 1 else "has"
        notes.append(
            f"{listed(other_labels)} {have} a usual name of labels too; name the label with --label-column."
        )
    if not spec.text_columns:
        notes += notes_on_unread_texts(table, {*texts, *not_texts})
    columns = Columns(
        inputs=tuple(texts),
        label=label,
        group=spec.group_column,
        time=spec.time_column,
        other_labels=tuple(other_labels),
    )
    return columns, notes


def _guess(head: pa.Table, texts: Sequence[str]) -> str:
    """Write the flags for the columns of 0 and 1, else for the one with the fewest labels; "" without one.

    Each label occurs twice or more. If no text column is named and one holds texts of several words, its flag
    follows.
    """
    of_texts = [name for name in head.column_names if holds_texts(head, name)]
    labels = [name for name in head.column_names if name not in (*texts, *of_texts)]
    counts = {name: Counter(str(x) for x in cells_in(head, name) if x is not None) for name in labels}
    fitting = {name: len(n) for name, n in counts.items() if len(n) > 1 and min(n.values()) > 1}
    if not fitting:
        return ""
    flag = ["--text-column", *of_texts] if len(of_texts) == 1 and not texts else []
    each_a_label = [name for name in fitting if {*map(str.casefold, counts[name])} <= HAS_LABEL.keys()]
    label = ",".join(each_a_label) if each_a_label else min(fitting, key=lambda name: fitting[name])
    return shlex.join(["--label-column", label, *flag])


def _find_texts(head: pa.Table, not_texts: Collection[str | None]) -> list[str]:
    """Find the columns with the most telling names, else the only one with texts of several words or strings.

    [] without such a column.
    """
    by_lower = {name.strip().lower(): name for name in head.column_names if name not in not_texts}
    for names in TEXT_NAMES.split():
        if not all(name in by_lower for name in names.split("+")):
            continue
        columns = [by_lower[name] for name in names.split("+")]
        is_optional = len(columns) > 1 and columns[0].lower() in _OPTIONAL
        if not is_optional or all(cells_in(head, columns[0])):
            return columns
    strings = [name for name in by_lower.values() if holds_strings(head, name)]
    # All cells of a csv file are strings; a column of numbers is an id or a count.
    texts = [name for name in strings if holds_texts(head, name)] or [
        name for name in strings if not is_numeric(cells_in(head, name))
    ]
    return texts if len(texts) == 1 else []


def with_labels(
    part: str,
    rows: Sequence[Any],
    column: str,
    *,
    train_labels: Collection[str],
    are_numbers: bool = False,
) -> tuple[list[Any], list[str]]:
    """Drop the rows without a label, with a note if there are some; rows may be of any type with a `label`.

    Raises DataError if no row of train has a label.
    """
    labels = {row.label for row in rows}
    # Test splits on the hub often hide their labels by writing -1 throughout.
    hides_labels = part != "train" and HIDDEN not in train_labels and (not are_numbers or labels == {HIDDEN})
    missing = {None, HIDDEN} if hides_labels else {None}
    kept = [row for row in rows if row.label not in missing]
    if not kept and part == "train":
        raise DataError(
            f"No {part} row of {len(rows)} has a label in column {column}; training needs labels."
        )
    if not kept:
        return kept, [f"Left out the {part} part: no row of {len(rows)} has a label."]
    n_dropped = len(rows) - len(kept)
    note = f"Dropped {counted(n_dropped, f'{part} row')} without a label."
    return kept, [note] if n_dropped else []


def _kind(labels: Sequence[Any], column: str) -> LabelKind:
    """Choose the kind: `classes` for lists, `number` for more than 10 numbers with fractions, else `class`.

    Up to a tenth of the distinct labels may be no numbers: `_numbers` reports such typing errors. Raises
    DataError if numbers with a comma make the rest: the comma may be decimal, divide thousands or labels.
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
    """Turn labels into finite floats; raises DataError with the row of the first that is no such number."""
    values = [float(row.label) if NUMBER.fullmatch(row.label) else math.nan for row in rows]
    faulty = [row for row, value in zip(rows, values, strict=True) if not abs(value) <= _LARGEST]
    if faulty:
        raise DataError(
            f"Label column {column} holds {shortened(faulty[0].label, 40)!r} in row {faulty[0].number} of "
            f"{part}: {len(faulty)} of {len(rows)} labels are no numbers from -{_LARGEST:g} to {_LARGEST:g}. "
            "Write plain numbers such as 1234.5, or leave the cells empty."
        )
    return [row._replace(label=value) for row, value in zip(rows, values, strict=True)]


def _classes(parts: Parts, kind: LabelKind, columns: Columns, *, declared: Sequence[str]) -> LabelSpace:
    """Describe classes as a target; DataError if train has less than 2, or another part has a new one."""
    counts = Counter(name for row in parts["train"] for name in names_in(row.label))
    names = order_of(counts, declared)
    if len(names) < 2:
        guess = f" (it may be {' or '.join(columns.other_labels)})" if columns.other_labels else ""
        raise DataError(
            f"Label column {columns.label} has only {list(names)} in train; at least 2 are needed. Name the "
            f"label column with --label-column{guess}."
        )
    for part, rows in parts.items():
        if unknown := sorted({name for row in rows for name in names_in(row.label)} - set(counts)):
            label = unknown[0]
            numbers = [str(row.number) for row in rows if label in names_in(row.label)]
            alike = next((name for name in names if name.casefold() == label.casefold()), None)
            near = f" (train has {alike!r})" if alike else ""
            raise DataError(
                f"The {USUAL_NAMES.get(part, part)} part has label {label!r} in row {listed(numbers, 1)}, "
                f"which train lacks{near}; correct it there, drop such rows, or add some to train."
            )
    return LabelSpace(kind=kind, names=names, counts=tuple(counts[name] for name in names))


def order_of(present: Iterable[str], declared: Sequence[str]) -> tuple[str, ...]:
    """Sort the labels that occur as they are declared; without a declaration by text, or numbers by value."""
    present = set(present)
    has_numbers = not declared and all(NUMBER.fullmatch(label) for label in present)
    by_value = sorted(present, key=lambda name: (float(name) if has_numbers else 0.0, name))
    return tuple([name for name in declared if name in present] or by_value)
