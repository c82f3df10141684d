"""From settings to four splits: read the rows, drop duplicates, cut, and turn labels into numbers."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import replace
from typing import Any

from autopeft.data.cutting import cut_splits, groups_of
from autopeft.data.dataset import USUAL_NAMES, LabelledData, ReadRows, Row, Split, SplitRows, UncutRows
from autopeft.data.labels import names_in, read_texts
from autopeft.errors import DataError
from autopeft.plugins import IGNORED, LabelSpace
from autopeft.types import DataSpec, counted

_PRECIOUS = ("test", "confirm", "train")  # the most precious first: it keeps an example that several have


def load(spec: DataSpec, *, seed: int, read_rows: ReadRows = read_texts) -> LabelledData:
    """Read a dataset, remove its duplicates, and split it into train, search, confirm and test.

    `search`, and `confirm` if the user has no validation split, are cut from train: 15 % of it, at least 50
    and at most 2,000 rows, never more than a third, stratified if the classes allow it. Before any cut,
    inputs that occur again (case and spacing aside) are removed except from the more precious split: test
    before confirm before train. An unset column is found by name. Each decision gives a note.

    Raises:
        DataError: The source cannot be read, or its rows cannot be learned from.
        UnknownNameError: A column that the spec names does not exist.
    """
    read = read_rows(spec)
    uncut, duplicate_notes = _without_duplicates(read)
    splits, cut_notes = cut_splits(uncut, spec.max_examples, seed=seed)
    notes = [*read.notes, *duplicate_notes, *cut_notes]
    label_space = uncut.label_space
    if label_space.kind != "number":
        counts = Counter(name for row in splits["train"] for name in names_in(row.label))
        if label_space.kind == "class" and len(counts) < 2:
            raise DataError(
                f"Of {len(label_space.names)} labels, only {', '.join(counts)} is left in train after "
                "repeated and surplus rows are removed; name all columns of the input with --text-column, or "
                "raise --max-examples."
            )
        label_space = replace(label_space, counts=tuple(counts[name] for name in label_space.names))
    # The blocks that documents are cut into have no group.
    are_counted = spec.group_column is not None and label_space.kind != "documents"
    n_rows, n_groups = len(splits["confirm"]), len(groups_of(splits["confirm"]))
    if n_groups < n_rows and not are_counted:
        notes.append(
            f"The {n_rows} rows of the confirm split are of {counted(n_groups, 'group')}. Intervals count "
            "rows as independent, so they are too narrow if rows of a group are alike."
        )
    content = {split: [[row.inputs, row.label] for row in rows] for split, rows in splits.items()}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
    n_read, n_kept = (sum(map(len, rows.splits.values())) for rows in (read, uncut))
    return LabelledData(
        **{name: _split(name, rows, label_space, has_groups=are_counted) for name, rows in splits.items()},
        label_space=label_space,
        text_columns=uncut.input_columns,
        label_column=uncut.label_column,
        name=uncut.name,
        fingerprint=digest[:16],
        duplicates_removed=n_read - n_kept,
        notes=tuple(notes),
    )


def _without_duplicates(uncut: UncutRows) -> tuple[UncutRows, list[str]]:
    """Keep each input in its most precious split only, and once in train; notes report what was removed.

    1. If inputs may repeat (a prompt with several answers), train keeps rows with different labels.
    2. All splits keep rows with shared inputs (a fixed instruction) and different labels.
    3. The user's test and confirm may repeat an example within themselves.
    4. A row of a group that a more precious split holds is removed.

    Raises:
        DataError: No row of train remains.
    """
    kept_splits: SplitRows = {}
    seen, seen_groups = set[Any](), set[str]()
    n_repeated, n_grouped = Counter[str](), Counter[str]()  # removed rows by split
    for split in sorted(uncut.splits, key=_PRECIOUS.index):
        in_split, kept = set[Any](), list[Row]()
        for row in uncut.splits[split]:
            inputs = _normalized(row.inputs)
            answered = (inputs, _normalized(row.label)) if uncut.may_repeat else inputs
            across_splits = answered if row.inputs in uncut.shared_inputs else inputs
            if row.group is not None and row.group in seen_groups:
                n_grouped[split] += 1
            elif across_splits in seen or (split == "train" and answered in in_split):
                n_repeated[split] += 1
            else:
                kept.append(row)
                in_split.update((inputs, answered))
        kept_splits[split] = kept
        seen |= in_split
        seen_groups.update(row.group for row in kept if row.group is not None)
    n_train = len(uncut.splits["train"])
    if n_train and not kept_splits["train"]:
        raise DataError(
            f"All {n_train} train rows, or their groups, are also in "
            f"{' or '.join(name for split, name in USUAL_NAMES.items() if split in uncut.splits)} and were "
            "removed as duplicates; give other train rows, or another file there."
        )
    left_out = {
        **uncut.left_out,
        "rows of groups that another split holds": n_grouped["train"],
        "duplicates": n_repeated["train"],
    }
    notes = []
    if n_repeated:
        kept_by = "; the most precious split kept it" if len(uncut.splits) > 1 else ""
        notes.append(
            f"Removed {counted(n_repeated.total(), 'row')} with an input that occurs again{kept_by}."
        )
    if n_grouped:
        notes.append(
            f"Removed {counted(n_grouped.total(), 'row')} of groups that a more precious split holds."
        )
    return replace(uncut, splits=kept_splits, left_out=left_out), notes


def _normalized(value: Any) -> Any:
    """Lower the case of texts and join their words by single blanks, also in tuples."""
    if isinstance(value, str):
        return " ".join(value.lower().split())
    return tuple(map(_normalized, value)) if isinstance(value, tuple | list) else value


def _split(name: str, rows: list[Row], label_space: LabelSpace, *, has_groups: bool) -> Split:
    """Make a split of rows: labels become numbers, and each row gets the number of its group."""
    indices = {label: index for index, label in enumerate(label_space.names)}

    def encoded(label: Any) -> Any:
        if isinstance(label, tuple):
            return tuple(IGNORED if item is None else indices[item] for item in label)
        return indices[label] if label_space.kind == "class" else label

    members = groups_of(rows)
    number_of = {row: number for number, group in enumerate(members) for row in group}
    numbers = tuple(number_of[row] for row in range(len(rows)))
    return Split(
        name=name,
        inputs=tuple(row.inputs for row in rows),
        labels=tuple(encoded(row.label) for row in rows),
        groups=numbers if has_groups and len(members) < len(rows) else (),
    )
