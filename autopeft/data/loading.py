"""From a spec to four splits: rows as the task reads them, duplicates out, cuts, labels as numbers."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

from autopeft.data.cutting import cut_splits, remove_duplicates
from autopeft.data.labels import read_texts
from autopeft.data.rows import LabelledData, ReadRows, Row, Split, fingerprint_text
from autopeft.extension import Target
from autopeft.records import DataSpec


def load(spec: DataSpec, *, seed: int, read_rows: ReadRows = read_texts) -> LabelledData:
    """The dataset of a spec, cleaned and split into train, search, confirm and test.

    `search`, and `confirm` where the user has no validation split, are cut from train: 15 %,
    at least 50 and at most 2,000 rows, never more than a third; stratified where the classes
    allow it. Inputs that occur again (case and spacing aside) stay in the more precious
    split, test before confirm before train; this happens before any cut.

    Args:
        spec: Where the data is, and which columns to use; an unset column is found by name.
        seed: Decides every cut; the same seed gives the same rows.
        read_rows: Reads the rows that the task learns from; `Task.read_rows`.

    Returns:
        The splits, with a note in plain words on each decision taken.

    Raises:
        DataError: The source cannot be read, or its rows cannot be learned from.
        UnknownNameError: A column that the spec names is not there.

    Example:
        >>> sample = load(DataSpec(), seed=0)
        >>> sample.label_names, len(sample.train.inputs), len(sample.search.inputs)
        (('negative', 'positive'), 1773, 313)
    """
    notes: list[str] = []
    found = read_rows(spec, notes)
    n_removed = remove_duplicates(found, notes)
    splits = cut_splits(found, spec.max_examples, seed=seed, notes=notes)
    target = replace(found.target, counts=_counts(found.target, splits["train"]))
    return LabelledData(
        **{part: _split(part, rows, target) for part, rows in splits.items()},
        target=target,
        text_columns=found.input_columns,
        label_column=found.label_column,
        name=found.name,
        fingerprint=hashlib.sha256(fingerprint_text(splits).encode()).hexdigest()[:16],
        duplicates_removed=n_removed,
        notes=tuple(notes),
    )


def _split(part: str, rows: list[Row], target: Target) -> Split:
    at = {name: index for index, name in enumerate(target.names)}

    def encoded(label: Any) -> Any:
        if isinstance(label, tuple):
            return tuple(at[name] for name in label)
        return at[label] if target.kind in ("class", "choice") else label

    return Split(
        name=part,
        inputs=tuple(row.inputs for row in rows),
        labels=tuple(encoded(row.label) for row in rows),
    )


def _counts(target: Target, rows: list[Row]) -> tuple[int, ...]:
    """How often train has each label."""
    if target.kind == "number" or not target.names:
        return ()
    counts = dict.fromkeys(target.names, 0)
    for row in rows:
        for name in row.label if isinstance(row.label, tuple) else (row.label,):
            counts[name] += 1
    return tuple(counts.values())
