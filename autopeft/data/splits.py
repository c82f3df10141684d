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
from autopeft.data.dataset import USUAL_NAMES, LabelledData, Parts, ReadRows, Row, Split, UncutRows
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
    before confirm before train. An unset column is found by name. Each decision gives a note in plain words.

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
    notes += _notes_on_groups(read.parts, splits, are_counted=are_counted)
    content = {part: [[row.inputs, row.label] for row in rows] for part, rows in splits.items()}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
    n_read, n_kept = (sum(map(len, rows.parts.values())) for rows in (read, uncut))
    return LabelledData(
        **{part: _split(part, rows, label_space, has_groups=are_counted) for part, rows in splits.items()},
        label_space=label_space,
        text_columns=uncut.input_columns,
        label_column=uncut.label_column,
        name=uncut.name,
        fingerprint=digest[:16],
        duplicates_removed=n_read - n_kept,
        notes=tuple(notes),
    )


def _without_duplicates(uncut: UncutRows) -> tuple[UncutRows, list[str]]:
    """Keep each input in its most precious part only, and once in train; notes say what was removed.

    1. If inputs may repeat (a prompt with several answers), train keeps rows whose labels differ.
    2. All parts keep rows with shared inputs (a fixed instruction) whose labels differ.
    3. A continuous text keeps all rows.
    4. The user's test and confirm may repeat an example within themselves.
    5. A row whose group stands in a more precious part is removed.

    Raises:
        DataError: No row of train remains.
    """
    if uncut.label_space.kind == "stream":
        return uncut, []
    kept_parts: Parts = {}
    kept_labels, seen, seen_groups = dict[Any, Any](), set[Any](), set[str]()
    needs_answers = uncut.may_repeat or bool(uncut.shared_inputs)
    n_repeated = n_grouped = n_other_label = n_grouped_in_train = 0
    for part in sorted(uncut.parts, key=_PRECIOUS.index):
        in_part, groups_in_part, kept = set[Any](), set[str](), list[Row]()
        n_grouped_in_part = 0
        for row in uncut.parts[part]:
            inputs = _normalised(row.inputs)
            answered = (inputs, _normalised(row.label)) if needs_answers else inputs
            key = answered if uncut.may_repeat else inputs
            across_parts = answered if row.inputs in uncut.shared_inputs else inputs
            if row.group is not None and row.group in seen_groups:
                n_grouped_in_part += 1
            elif across_parts not in seen and not (part == "train" and key in in_part):
                kept.append(row)
                kept_labels.setdefault(inputs, row.label)
                in_part.update((inputs, answered))
                groups_in_part |= set() if row.group is None else {row.group}
            elif not uncut.may_repeat:
                labels = [row.label, kept_labels[inputs]]
                if uncut.label_space.kind == "classes":  # in any order
                    labels = [set(label) for label in labels]
                n_other_label += labels[0] != labels[1]
        n_repeated += len(uncut.parts[part]) - len(kept) - n_grouped_in_part
        n_grouped += n_grouped_in_part
        n_grouped_in_train = n_grouped_in_part  # train is the last part
        kept_parts[part] = kept
        seen |= in_part
        seen_groups |= groups_in_part
    train, kept_train = uncut.parts["train"], kept_parts["train"]
    if train and not kept_train:
        raise DataError(
            f"All {len(train)} train rows, or their groups, also stand in "
            f"{' or '.join(name for part, name in USUAL_NAMES.items() if part in uncut.parts)} and were "
            "removed as duplicates; give other train rows, or another file there."
        )
    left_out = {
        **uncut.left_out,
        "rows of groups that another split holds": n_grouped_in_train,
        "duplicates": len(train) - len(kept_train) - n_grouped_in_train,
    }
    is_text = all(isinstance(item, str | tuple) for row in kept_train[:1] for item in row.inputs)
    content = "text" if is_text else "image"
    notes = []
    if n_repeated:
        kept_by = "; the most precious split kept it" if len(uncut.parts) > 1 else ""
        notes.append(f"Removed {counted(n_repeated, 'row')} whose {content} occurs again{kept_by}.")
    if n_other_label:
        notes.append(
            f"Of the removed rows {n_other_label} had another label than the row with their {content} that "
            f"was kept; check the labels of {content}s that occur again."
        )
    if n_grouped:
        notes.append(f"Removed {counted(n_grouped, 'row')} whose group stands in a more precious split.")
    parts = {part: kept_parts[part] for part in uncut.parts}
    return replace(uncut, parts=parts, left_out=left_out), notes


def _normalised(value: Any) -> Any:
    """Put texts in lower case and with single blanks, also inside of tuples; other values stay."""
    if isinstance(value, str):
        return " ".join(value.lower().split())
    return tuple(map(_normalised, value)) if isinstance(value, tuple | list) else value


class OtherRows(NamedTuple):
    """Rows without a label: their name in words, their reader, and sets of usual column names."""

    words: str
    read_rows: ReadRows
    columns: tuple[set[str], ...]


OTHER_ROWS = (
    OtherRows("chats", read_language, ({"messages"}, {"conversations"})),
    OtherRows(
        "prompts with completions",
        read_language,
        (
            {"prompt", "completion"},
            {"prompt", "response"},
            {"instruction", "output"},
            {"instruction", "response"},
        ),
    ),
    OtherRows(
        "tokens with tags", read_tokens, ({"tokens", "ner_tags"}, {"tokens", "tags"}, {"tokens", "pos_tags"})
    ),
    OtherRows("questions with choices", read_choices, ({"question", "choices"}, {"question", "options"})),
)


def other_rows_of(names: Sequence[str]) -> OtherRows | None:
    """Look up what a table with these columns usually holds; None if the columns are not usual ones."""
    lower = {name.strip().lower() for name in names}
    return next((rows for rows in OTHER_ROWS if any(usual <= lower for usual in rows.columns)), None)


def _check_labels(label_space: LabelSpace, splits: Parts) -> list[str]:
    """Raise DataError if train has a single class; note labels that train or another split lacks."""
    present = {part: {name for row in rows for name in names_in(row.label)} for part, rows in splits.items()}
    notes = []
    lost = [name for name in label_space.names if name not in present["train"]]
    if label_space.kind == "class" and len(present["train"]) < 2:
        raise DataError(
            f"Of {len(label_space.names)} labels, only {', '.join(present['train'])} is left in train after "
            "repeated and surplus rows are removed; name all columns of the input with --text-column, or "
            "raise --max-examples."
        )
    if label_space.kind == "class" and lost:
        listed = shortened(", ".join(lost), 60)
        labels = counted(len(lost), "label")
        notes.append(f"No train row is left of {labels} ({listed}): repeated or surplus rows went.")
    for part, names in present.items():
        absent = [name for name in label_space.names if name in present["train"] - names]
        if absent and splits[part]:
            listed = shortened(", ".join(map(repr, absent)), 60)
            notes.append(
                f"The {part} split has no row with label {listed} of train, so that it tells nothing of how "
                "well such rows are labelled."
            )
    return notes


def _notes_on_groups(read: Parts, splits: Parts, *, are_counted: bool) -> list[str]:
    """Write notes on parts without groups, and on whether intervals count groups or single rows."""
    notes = []
    in_groups = {part for part, rows in read.items() if any(row.group is not None for row in rows)}
    for part, name in USUAL_NAMES.items():
        if "train" in in_groups and read.get(part) and part not in in_groups:
            notes.append(
                f"The {name} part has no group in its rows, so that train may hold rows of the same groups; "
                "add the column of --group-column there."
            )
    for part in ("confirm", "test"):
        n_rows, n_groups = len(splits[part]), len(groups_of(splits[part]))
        of_groups = f"The {n_rows} rows of the {part} split are of {counted(n_groups, 'group')}"
        if are_counted and n_groups < n_rows:
            notes.append(f"{of_groups}, which intervals and standard errors count in place of rows.")
        elif n_groups < n_rows and part == "confirm":
            notes.append(
                f"{of_groups}. Intervals count rows as independent, so that they are too narrow where rows "
                "of a group are alike."
            )
    return notes


def _split(part: str, rows: list[Row], label_space: LabelSpace, *, has_groups: bool) -> Split:
    """Make a split of rows: labels become numbers, and each row gets the number of its group."""
    indices = {name: index for index, name in enumerate(label_space.names)}

    def encoded(label: Any) -> Any:
        if isinstance(label, tuple):
            return tuple(IGNORED if name is None else indices[name] for name in label)
        return indices[label] if label_space.kind in ("class", "choice") else label

    members = groups_of(rows)
    number_of = {row: number for number, group in enumerate(members) for row in group}
    numbers = tuple(number_of[row] for row in range(len(rows)))
    return Split(
        name=part,
        inputs=tuple(row.inputs for row in rows),
        labels=tuple(encoded(row.label) for row in rows),
        groups=numbers if has_groups and len(members) < len(rows) else (),
    )
