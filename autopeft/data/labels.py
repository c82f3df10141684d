"""Rows with an input and a label, and the label space that their labels make."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from autopeft.data.columns import HIDDEN, NUMBER
from autopeft.data.dataset import USUAL_NAMES, Row, SplitRows, UncutRows
from autopeft.errors import DataError
from autopeft.plugins import LabelSpace
from autopeft.types import counted, listed, shortened

_LARGEST = 1e18  # absolute value of a number to learn; float32 still holds its square; heuristic


def complete_rows(read: UncutRows) -> tuple[SplitRows, list[str]]:
    """Drop the rows without a label or an input, with notes; DataError if no train row has a label."""
    kept: SplitRows = {}
    notes = list[str]()
    no_label = "an answer at the end" if read.kind == "chat" else f"a value in column {read.label_column}"
    for split, rows in read.splits.items():
        missing = (None, HIDDEN) if _hides_labels(read, split) else (None,)
        labeled = [row for row in rows if row.label not in missing]
        kept[split] = [row for row in labeled if None not in row.inputs]
        if split == "train" and not labeled:
            raise DataError(f"No train row of {len(rows)} has {no_label}, from which the model would learn.")
        n_dropped = {no_label: len(rows) - len(labeled), "an input": len(labeled) - len(kept[split])}
        for lack, n in n_dropped.items():
            if n:
                notes.append(f"Dropped {counted(n, f'{split} row')} without {lack}.")
    return kept, notes


def _hides_labels(read: UncutRows, split: str) -> bool:
    """Whether -1 means no label: test splits on the hub often have it throughout."""
    if split == "train" or read.kind not in ("class", "classes", "number"):
        return False
    if read.kind == "number":
        return {row.label for row in read.splits[split]} == {HIDDEN}
    return not any(HIDDEN in names_in(row.label) for row in read.splits["train"])


def with_label_space(read: UncutRows, splits: SplitRows) -> tuple[SplitRows, LabelSpace, list[str]]:
    """Describe the labels, without counts; return rows with labels of their kind, and notes."""
    column = read.label_column
    if read.kind == "number":
        splits = {split: _numbers(split, rows, column) for split, rows in splits.items()}
        numbers = [row.label for row in splits["train"]]
        mean, std = statistics.fmean(numbers), statistics.pstdev(numbers)
        if std == 0:
            raise DataError(
                f"Label column {column} has only {mean:g} in train; at least 2 different numbers are needed."
            )
        return splits, LabelSpace(kind="number", names=(column,), mean=mean, std=std), []
    if read.kind not in ("class", "classes", "tags"):
        return splits, LabelSpace(kind=read.kind), []
    if read.kind == "classes":  # a single label next to lists means a list of one
        splits = {
            split: [row._replace(label=names_in(row.label)) for row in rows] for split, rows in splits.items()
        }
    known = {name for row in splits["train"] for name in names_in(row.label)}
    if len(known) < 2:
        raise DataError(
            f"Label column {column} has only {sorted(known)} in train; at least 2 are needed. If the "
            "labels are in another column, pass --label-column."
        )
    if read.kind == "class" and len(known) == len(splits["train"]):
        raise DataError(
            f"Each of the {len(known)} labels of column {column} occurs once in train. If they are ids, name "
            "another --label-column; if they are numbers to predict, pass --label-kind number."
        )
    unknown = set[str]()
    for split, rows in splits.items():
        for row in rows:
            unknown |= (new := set(names_in(row.label)) - known)
            if new and read.kind != "tags":
                raise DataError(
                    f"The {USUAL_NAMES[split]} split has label {min(new)!r} in row {row.number}, which train "
                    "does not have; correct it there, drop such rows, or add some to train."
                )
    notes = []
    if unknown:
        notes.append(f"No train row has the tags {listed(sorted(unknown))}; elsewhere they count as missed.")
    names = _in_order(known | unknown, read.declared_names)
    return splits, LabelSpace(kind=read.kind, names=names), notes


def names_in(label: Any) -> tuple[str, ...]:
    """List the labels of one row: the items of a tuple that are not None, or the one label; () for None."""
    if isinstance(label, tuple):
        return tuple(name for name in label if name is not None)
    return () if label is None else (label,)


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


def _in_order(present: Iterable[str], declared: Sequence[str]) -> tuple[str, ...]:
    """Sort the labels that occur as they are declared, else by text, or by value if all are numbers."""
    present = set(present)
    has_numbers = not declared and all(NUMBER.fullmatch(label) for label in present)
    by_value = sorted(present, key=lambda name: (float(name) if has_numbers else 0.0, name))
    return tuple([name for name in declared if name in present] or by_value)
