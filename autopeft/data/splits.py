"""From settings to four splits: read the rows, drop duplicates, cut, and turn labels into numbers."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from autopeft.data.choices import read_choices
from autopeft.data.cutting import cut_splits, groups_of
from autopeft.data.dataset import USUAL_NAMES, LabelledData, ReadRows, Row, Split, SplitRows, UncutRows
from autopeft.data.labels import names_in, read_texts
from autopeft.data.language import read_language
from autopeft.data.tokens import read_tokens
from autopeft.errors import DataError
from autopeft.plugins import IGNORED, LabelSpace
from autopeft.types import DataSpec, counted, shortened

_IN_BLOCKS = ("documents", "stream")  # kinds whose rows become blocks of a longer text, which have no group
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
    if label_space.kind in ("class", "classes"):
        notes += _check_labels(label_space, splits)
    if label_space.kind != "number":
        counts = Counter(name for row in splits["train"] for name in names_in(row.label))
        label_space = replace(label_space, counts=tuple(counts[name] for name in label_space.names))
    are_counted = spec.group_column is not None and label_space.kind not in _IN_BLOCKS
    notes += _notes_on_groups(read.splits, splits, are_counted=are_counted)
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
    3. A continuous text keeps all rows.
    4. The user's test and confirm may repeat an example within themselves.
    5. A row of a group that a more precious split holds is removed.

    Raises:
        DataError: No row of train remains.
    """
    if uncut.label_space.kind == "stream":
        return uncut, []
    kept_splits: SplitRows = {}
    seen, seen_groups = set[Any](), set[str]()
    needs_answers = uncut.may_repeat or bool(uncut.shared_inputs)
    n_repeated = n_grouped = n_grouped_in_train = 0
    for split in sorted(uncut.splits, key=_PRECIOUS.index):
        in_split, groups_in_split, kept = set[Any](), set[str](), list[Row]()
        n_grouped_in_split = 0
        for row in uncut.splits[split]:
            inputs = _normalized(row.inputs)
            answered = (inputs, _normalized(row.label)) if needs_answers else inputs
            key = answered if uncut.may_repeat else inputs
            across_splits = answered if row.inputs in uncut.shared_inputs else inputs
            if row.group is not None and row.group in seen_groups:
                n_grouped_in_split += 1
            elif across_splits not in seen and not (split == "train" and key in in_split):
                kept.append(row)
                in_split.update((inputs, answered))
                groups_in_split |= set() if row.group is None else {row.group}
        n_repeated += len(uncut.splits[split]) - len(kept) - n_grouped_in_split
        n_grouped += n_grouped_in_split
        n_grouped_in_train = n_grouped_in_split  # train is the last split
        kept_splits[split] = kept
        seen |= in_split
        seen_groups |= groups_in_split
    train, kept_train = uncut.splits["train"], kept_splits["train"]
    if train and not kept_train:
        raise DataError(
            f"All {len(train)} train rows, or their groups, are also in "
            f"{' or '.join(name for split, name in USUAL_NAMES.items() if split in uncut.splits)} and were "
            "removed as duplicates; give other train rows, or another file there."
        )
    left_out = {
        **uncut.left_out,
        "rows of groups that another split holds": n_grouped_in_train,
        "duplicates": len(train) - len(kept_train) - n_grouped_in_train,
    }
    notes = []
    if n_repeated:
        kept_by = "; the most precious split kept it" if len(uncut.splits) > 1 else ""
        notes.append(f"Removed {counted(n_repeated, 'row')} with an input that occurs again{kept_by}.")
    if n_grouped:
        notes.append(f"Removed {counted(n_grouped, 'row')} of groups that a more precious split holds.")
    splits = {split: kept_splits[split] for split in uncut.splits}
    return replace(uncut, splits=splits, left_out=left_out), notes


def _normalized(value: Any) -> Any:
    """Lower the case of texts and join their words by single blanks, also in tuples."""
    if isinstance(value, str):
        return " ".join(value.lower().split())
    return tuple(map(_normalized, value)) if isinstance(value, tuple | list) else value


class OtherRows(NamedTuple):
    """Rows of another task: a description of them, their reader, and their usual column names."""

    words: str
    read_rows: ReadRows
    columns: set[str]


OTHER_ROWS = (
    OtherRows("chats", read_language, {"messages"}),
    OtherRows("chats", read_language, {"conversations"}),
    OtherRows("prompts with completions", read_language, {"prompt", "completion"}),
    OtherRows("prompts with completions", read_language, {"instruction", "output"}),
    OtherRows("tokens with tags", read_tokens, {"tokens", "ner_tags"}),
    OtherRows("tokens with tags", read_tokens, {"tokens", "tags"}),
    OtherRows("questions with choices", read_choices, {"question", "choices"}),
)


def other_rows_of(names: Sequence[str]) -> OtherRows | None:
    """Return what a table with these columns usually holds, or None."""
    lower = {name.strip().lower() for name in names}
    return next((rows for rows in OTHER_ROWS if rows.columns <= lower), None)


def _check_labels(label_space: LabelSpace, splits: SplitRows) -> list[str]:
    """Raise DataError if train has a single class; report labels that a split does not have."""
    present = {
        split: {name for row in rows for name in names_in(row.label)} for split, rows in splits.items()
    }
    if label_space.kind == "class" and len(present["train"]) < 2:
        raise DataError(
            f"Of {len(label_space.names)} labels, only {', '.join(present['train'])} is left in train after "
            "repeated and surplus rows are removed; name all columns of the input with --text-column, or "
            "raise --max-examples."
        )
    notes = []
    for split, names in present.items():
        absent = [name for name in label_space.names if name not in names]
        if absent and splits[split]:
            labels = shortened(", ".join(map(repr, absent)), 60)
            notes.append(f"The {split} split has no row with label {labels}.")
    return notes


def _notes_on_groups(read: SplitRows, splits: SplitRows, *, are_counted: bool) -> list[str]:
    """Write notes on splits without groups, and on whether intervals count groups or single rows."""
    notes = []
    in_groups = {split for split, rows in read.items() if any(row.group is not None for row in rows)}
    for split, name in USUAL_NAMES.items():
        if are_counted and "train" in in_groups and read.get(split) and split not in in_groups:
            notes.append(
                f"The {name} split has no group in its rows, so train may hold rows of the same groups; "
                "add the column of --group-column there."
            )
    for split in ("confirm", "test"):
        n_rows, n_groups = len(splits[split]), len(groups_of(splits[split]))
        of_groups = f"The {n_rows} rows of the {split} split are of {counted(n_groups, 'group')}"
        if are_counted and n_groups < n_rows:
            notes.append(f"{of_groups}, which intervals and standard errors count instead of rows.")
        elif n_groups < n_rows and split == "confirm":
            notes.append(
                f"{of_groups}. Intervals count rows as independent, so they are too narrow if rows of a "
                "group are alike."
            )
    return notes


def _split(name: str, rows: list[Row], label_space: LabelSpace, *, has_groups: bool) -> Split:
    """Make a split of rows: labels become numbers, and each row gets the number of its group."""
    indices = {label: index for index, label in enumerate(label_space.names)}

    def encoded(label: Any) -> Any:
        if isinstance(label, tuple):
            return tuple(IGNORED if item is None else indices[item] for item in label)
        return indices[label] if label_space.kind in ("class", "choice") else label

    members = groups_of(rows)
    number_of = {row: number for number, group in enumerate(members) for row in group}
    numbers = tuple(number_of[row] for row in range(len(rows)))
    return Split(
        name=name,
        inputs=tuple(row.inputs for row in rows),
        labels=tuple(encoded(row.label) for row in rows),
        groups=numbers if has_groups and len(members) < len(rows) else (),
    )
