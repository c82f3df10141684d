"""From settings to four splits: read the rows, drop duplicates, cut, and turn labels into numbers."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from autopeft.data.choices import read_choices
from autopeft.data.cutting import CUT_AT_MOST, cut_splits, groups_of
from autopeft.data.duplicates import remove_duplicates
from autopeft.data.labels import names_in, read_texts
from autopeft.data.language import read_language
from autopeft.data.rows import LabelledData, Parts, ReadRows, Row, Split
from autopeft.data.tokens import read_tokens
from autopeft.errors import DataError, without_long_words
from autopeft.extension import IGNORED, Target
from autopeft.records import DataSpec, counted, shortened

_IN_BLOCKS = ("documents", "stream")  # kinds whose rows become blocks of a longer text, which have no group
_FEW_GROUPS = 20  # with fewer a verdict tells large differences alone; chosen by hand


def load(spec: DataSpec, *, seed: int, read_rows: ReadRows = read_texts) -> LabelledData:
    """The dataset of a spec, cleaned and split into train, search, confirm and test.

    `search`, and `confirm` if the user has no validation split, are cut from train: 15 % of it, at least 50
    and at most 2,000 rows, never more than a third, stratified if the classes allow it. Before any cut,
    inputs that occur again (case and spacing aside) are removed except from the more precious split: test
    before confirm before train.

    Args:
        spec: Where the data is, and which columns to use; an unset column is found by name.
        seed: Decides every cut; the same seed gives the same rows.
        read_rows: Reads the rows that the task learns from; `Task.read_rows`.

    Returns:
        The splits, with a note in plain words on each decision.

    Raises:
        DataError: The source cannot be read, or its rows cannot be learned from.
        UnknownNameError: A column that the spec names does not exist.

    Example:
        >>> sample = load(DataSpec(), seed=0)
        >>> sample.label_names, len(sample.train.inputs), len(sample.search.inputs)
        (('negative', 'positive'), 1773, 313)
    """
    notes: list[str] = []
    uncut = read_rows(spec, notes)
    n_removed = remove_duplicates(uncut, notes)
    splits = cut_splits(uncut, spec.max_examples, seed=seed, notes=notes)
    _require_classes(uncut.target, splits["train"], notes)
    given = [part for part, rows in uncut.parts.items() if rows]
    _note_absent_labels(uncut.target, splits, notes, given=given)
    target = replace(uncut.target, counts=_counts(uncut.target, splits["train"]))
    are_counted = spec.group_column is not None and target.kind not in _IN_BLOCKS
    _note_groups(splits, notes, are_counted=are_counted)
    return LabelledData(
        **{part: _split(part, rows, target, has_groups=are_counted) for part, rows in splits.items()},
        target=target,
        text_columns=uncut.input_columns,
        label_column=uncut.label_column,
        name=uncut.name,
        fingerprint=_fingerprint(splits),
        duplicates_removed=n_removed,
        notes=tuple(map(without_long_words, notes)),
    )


@dataclass(frozen=True)
class OtherRows:
    """Rows without a label: what they are in words, what reads them, and sets of usual column names."""

    words: str
    read_rows: ReadRows
    columns: tuple[frozenset[str], ...]


def _rows(words: str, read_rows: ReadRows, *columns: str) -> OtherRows:
    return OtherRows(words, read_rows, tuple(frozenset(names.split("+")) for names in columns))


OTHER_ROWS = (
    _rows("chats", read_language, "messages", "conversations"),
    _rows(
        "prompts with completions",
        read_language,
        *("prompt+completion", "prompt+response", "instruction+output", "instruction+response"),
    ),
    _rows("tokens with tags", read_tokens, "tokens+ner_tags", "tokens+tags", "tokens+pos_tags"),
    _rows("questions with choices", read_choices, "question+choices", "question+options"),
)


def other_rows_of(names: Sequence[str]) -> OtherRows | None:
    """What a table with these columns usually holds; None where the columns are not usual ones.

    Example:
        >>> other_rows_of(["id", "Messages"]).words
        'chats'
    """
    lower = {name.strip().lower() for name in names}
    return next((rows for rows in OTHER_ROWS if any(usual <= lower for usual in rows.columns)), None)


def _require_classes(target: Target, rows: list[Row], notes: list[str]) -> None:
    """Raise DataError where the rows that are left in train have one class; note classes that are lost."""
    if target.kind != "class":
        return
    left = {row.label for row in rows}
    lost = [name for name in target.names if name not in left]
    if len(left) < 2:
        raise DataError(
            f"Of {len(target.names)} labels train has {', '.join(left)} alone, once repeated and surplus "
            "rows are removed; name all columns of the input with --text-column, or raise --max-examples."
        )
    if lost:
        listed = shortened(", ".join(lost), 60)
        labels = counted(len(lost), "label")
        notes.append(f"No train row is left of {labels} ({listed}): repeated or surplus rows went.")


def _note_absent_labels(target: Target, splits: Parts, notes: list[str], *, given: Collection[str]) -> None:
    """Note labels of train that another split lacks, whose metric tells nothing of them.

    `given` are the parts that the user has; the others are cut from train.
    """
    if target.kind not in ("class", "classes"):
        return
    present = {part: {name for row in rows for name in names_in(row.label)} for part, rows in splits.items()}
    for part, names in present.items():
        absent = [name for name in target.names if name in present["train"] - names]
        if absent and splits[part]:
            listed = shortened(", ".join(map(repr, absent)), 60)
            what = f"label {listed}" if len(absent) == 1 else f"{len(absent)} labels ({listed})"
            n_rows = counted(len(splits[part]), "row")
            notes.append(
                f"The {part} split has no row with {what} of train, so that its {n_rows} tell nothing of how "
                f"well such rows are labelled{_remedy(part, is_given=part in given)}."
            )


def _remedy(part: str, *, is_given: bool) -> str:
    """What to do about labels that a split lacks, as far as the user can do something."""
    if is_given:
        return "; add some"
    instead = "; give a validation file with such rows to judge them" if part == "confirm" else ""
    return f" (this split is cut from train, {CUT_AT_MOST:,} rows at most){instead}"


def _note_groups(splits: Parts, notes: list[str], *, are_counted: bool) -> None:
    """Note what intervals count where rows come in groups: groups, or rows that they take as independent."""
    for part in ("confirm", "test"):
        n_rows, n_groups = len(splits[part]), len(groups_of(splits[part]))
        if n_groups == n_rows:
            continue
        of_groups = f"The {n_rows} rows of the {part} split are of {counted(n_groups, 'group')}"
        if are_counted and n_groups == 1:
            notes.append(f"{of_groups}: its scores tell nothing of other groups, which may differ.")
        elif are_counted:
            few = ". So few tell large differences alone" if n_groups < _FEW_GROUPS else ""
            notes.append(f"{of_groups}, which intervals and standard errors count in place of rows{few}.")
        elif part == "confirm":
            notes.append(
                f"{of_groups}. Intervals count rows as independent, so that they are too narrow where rows "
                "of a group are alike."
            )


def _numbered(rows: list[Row]) -> tuple[int, ...]:
    """The number of each row's group; empty where no two rows share one."""
    members = groups_of(rows)
    numbers = {row: number for number, group in enumerate(members) for row in group}
    return tuple(numbers[row] for row in range(len(rows))) if len(members) < len(rows) else ()


def _split(part: str, rows: list[Row], target: Target, *, has_groups: bool) -> Split:
    indices = {name: index for index, name in enumerate(target.names)}

    def encoded(label: Any) -> Any:
        if isinstance(label, tuple):
            return tuple(IGNORED if name is None else indices[name] for name in label)
        return indices[label] if target.kind in ("class", "choice") else label

    return Split(
        name=part,
        inputs=tuple(row.inputs for row in rows),
        labels=tuple(encoded(row.label) for row in rows),
        groups=_numbered(rows) if has_groups else (),
    )


def _counts(target: Target, rows: list[Row]) -> tuple[int, ...]:
    """How often train has each label."""
    if target.kind == "number":
        return ()
    counts = Counter(name for row in rows for name in names_in(row.label))
    return tuple(counts[name] for name in target.names)


def _fingerprint(splits: Parts) -> str:
    content = {name: [[row.inputs, row.label] for row in rows] for name, rows in splits.items()}
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]
