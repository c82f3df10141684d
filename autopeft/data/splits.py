"""From settings to four splits: read the rows, drop duplicates, cut, and turn labels into numbers."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pandas as pd

from autopeft.data.cutting import cut_splits, groups_of
from autopeft.data.dataset import LabelledData, ReadRows, Row, Split, SplitRows
from autopeft.data.files import quiet
from autopeft.data.labels import complete_rows, names_in, with_label_space
from autopeft.data.texts import read_texts
from autopeft.errors import DataError, first_line_of
from autopeft.plugins import IGNORED, PROMPTED_KINDS, LabelSpace
from autopeft.types import DataSpec, counted, listed

_IN_MEMORY = "dataset in memory"
_PRECIOUS = ("test", "confirm", "train")  # the most precious first: it keeps an example that several have
# A prompt in more than a tenth of the train rows, and in more than 10, is a fixed instruction rather than a
# question; heuristic.
_FIXED_SHARE, _FIXED_AT_LEAST = 10, 10
_COMMON = 10  # rows of a label that a split would have at its share of train; heuristic


def load(spec: DataSpec, *, seed: int, read_rows: ReadRows = read_texts) -> LabelledData:
    """Read a dataset, remove its duplicates, and split it into train, search, confirm and test.

    `search`, and `confirm` if the user has no validation split, are cut from train, stratified if the classes
    allow it. Before any cut, inputs that occur again are removed except from the more precious split: test
    before confirm before train. Rows with the same prompt form a group, so that no two splits share a prompt,
    unless it is a fixed instruction. Each decision gives a note.
    """
    read = read_rows(spec)
    complete, drop_notes = complete_rows(read)
    complete, label_space, label_notes = with_label_space(read, complete)
    notes = [*read.notes, *drop_notes, *label_notes]
    has_prompts = read.kind in PROMPTED_KINDS
    n_rows_of = Counter(row.inputs for row in complete["train"]) if has_prompts else Counter()
    limit = max(_FIXED_AT_LEAST, len(complete["train"]) // _FIXED_SHARE)
    fixed = {inputs: n for inputs, n in n_rows_of.items() if n > limit}
    if fixed:
        notes.append(
            f"{sum(fixed.values())} of {len(complete['train'])} train rows have the same "
            f"{counted(len(fixed), 'prompt')}: splits share such instructions, and rows are duplicates only "
            "if the completion is the same, too."
        )
    if spec.group_column is None:
        complete["train"] = [
            row._replace(group=" ".join(row.inputs))
            if n_rows_of[row.inputs] > 1 and row.inputs not in fixed
            else row
            for row in complete["train"]
        ]
    unique, duplicate_notes = _without_duplicates(complete, fixed, inputs_may_repeat=has_prompts)
    dropped = [*drop_notes, *duplicate_notes]
    splits, cut_notes = cut_splits(unique, label_space, spec.max_examples, dropped=dropped, seed=seed)
    notes += [*duplicate_notes, *cut_notes]
    if label_space.kind != "number":
        counts = Counter(name for row in splits["train"] for name in names_in(row.label))
        if label_space.kind == "class" and len(counts) < 2:
            raise DataError(
                f"Of {len(label_space.names)} labels, only {', '.join(counts)} is left in train after "
                "repeated and surplus rows are removed; name all columns of the input with --text-column, or "
                "raise --max-examples."
            )
        label_space = replace(label_space, counts=tuple(counts[name] for name in label_space.names))
        notes += _missing_labels(splits, label_space)
    # The blocks that documents are cut into have no group.
    are_counted = spec.group_column is not None and label_space.kind != "documents"
    n_rows, n_groups = len(splits["confirm"]), len(groups_of(splits["confirm"]))
    if n_groups < n_rows and not are_counted:
        notes.append(
            f"The {n_rows} rows of the confirm split form {counted(n_groups, 'group')} of rows with the "
            "same prompt or group. Intervals are too narrow if such rows are alike."
        )
    content = {split: [[row.inputs, row.label] for row in rows] for split, rows in splits.items()}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
    return LabelledData(
        **{name: _split(name, rows, label_space, has_groups=are_counted) for name, rows in splits.items()},
        label_space=label_space,
        text_columns=read.input_columns,
        label_column=read.label_column,
        name=read.name,
        fingerprint=digest[:16],
        duplicates_removed=sum(len(complete[split]) - len(rows) for split, rows in unique.items()),
        notes=tuple(notes),
    )


def _missing_labels(splits: SplitRows, space: LabelSpace) -> list[str]:
    """Name labels that are common in train and missing in another split, as in the end of a sorted file."""
    notes, counts = [], dict(zip(space.names, space.counts, strict=True))
    for split, rows in splits.items():
        common = {name for name, n in counts.items() if n * len(rows) >= _COMMON * len(splits["train"])}
        if missing := sorted(common - {name for row in rows for name in names_in(row.label)}):
            notes.append(
                f"Labels {listed(missing)} do not occur in the {len(rows)} {split} rows, though they are "
                "common in train; draw these rows at random, or leave their file out."
            )
    return notes


def load_in_memory(spec: DataSpec, data: Any, *, seed: int, read_rows: ReadRows) -> LabelledData:
    """Split a `Dataset`, a `DataFrame`, or a dictionary of these by split, as `load` splits a file."""
    with tempfile.TemporaryDirectory(prefix="autopeft-", ignore_cleanup_errors=True) as parent, quiet():
        folder = Path(parent) / _IN_MEMORY
        folder.mkdir()
        for split, content in (data if isinstance(data, dict) else {"train": data}).items():
            _dataset_of(content).to_parquet(folder / f"{split}.parquet")
        try:
            loaded = load(spec.model_copy(update={"source": str(folder)}), seed=seed, read_rows=read_rows)
        except DataError as error:
            error.args = (str(error).replace(str(folder), f"the {_IN_MEMORY}"),)
            raise
    return replace(loaded, name=_IN_MEMORY)


def _without_duplicates(
    splits: SplitRows, fixed: Collection[Any], *, inputs_may_repeat: bool
) -> tuple[SplitRows, list[str]]:
    """Keep each input in its most precious split only, and once in train.

    1. If inputs may repeat (a prompt with several answers), train keeps rows with different labels.
    2. All splits keep rows with `fixed` inputs (an instruction) and different labels.
    3. The user's test and confirm may repeat an example within themselves.
    4. A row of a group that a more precious split holds is removed.

    Returns the rows, and notes on all that were removed.
    """
    kept_splits: SplitRows = {}
    seen, seen_groups = set[Any](), set[str]()
    n_repeated = n_grouped = 0  # rows that are removed
    for split in sorted(splits, key=_PRECIOUS.index):
        in_split, kept = set[Any](), list[Row]()
        for row in splits[split]:
            inputs = _normalized(row.inputs)
            answered = (inputs, _normalized(row.label)) if inputs_may_repeat else inputs
            across_splits = answered if row.inputs in fixed else inputs
            if row.group is not None and row.group in seen_groups:
                n_grouped += 1
            elif across_splits in seen or (split == "train" and answered in in_split):
                n_repeated += 1
            else:
                kept.append(row)
                in_split.update((inputs, answered))
        kept_splits[split] = kept
        seen |= in_split
        seen_groups.update(row.group for row in kept if row.group is not None)
    notes = []
    if n_repeated:
        kept_by = "; the most precious split kept it" if len(splits) > 1 else ""
        notes.append(f"Removed {counted(n_repeated, 'row')} with an input that occurs again{kept_by}.")
    if n_grouped:
        notes.append(f"Removed {counted(n_grouped, 'row')} of groups that a more precious split holds.")
    return kept_splits, notes


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


def _dataset_of(table: Any) -> datasets.Dataset:
    if isinstance(table, datasets.Dataset):
        return table
    if isinstance(table, pd.DataFrame):
        try:
            return datasets.Dataset.from_pandas(table, preserve_index=False)
        except (ValueError, TypeError, NotImplementedError) as error:
            raise DataError(
                f"The data frame cannot be read: {first_line_of(error)}. Pass only the columns that are used."
            ) from error
    if hasattr(table, "to_arrow"):  # a frame of Polars
        return datasets.Dataset(table.to_arrow())
    raise DataError(
        f"The data in memory is a {type(table).__name__}; pass a datasets.Dataset, a pandas.DataFrame, a "
        "dictionary of these by split, or the name of a file."
    )
