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
from autopeft.data.labels import names_in, read_texts
from autopeft.data.language import read_language
from autopeft.data.rows import USUAL_NAMES, LabelledData, Parts, ReadRows, Row, Split, UncutRows
from autopeft.data.tokens import read_tokens
from autopeft.errors import DataError, without_long_words
from autopeft.extension import IGNORED, Target
from autopeft.records import DataSpec, counted, shortened

_IN_BLOCKS = ("documents", "stream")  # kinds whose rows become blocks of a longer text, which have no group
_FEW_GROUPS = 20  # with fewer a verdict tells large differences alone; chosen by hand

_PRECIOUS = ("test", "confirm", "train")  # the first part that has an example keeps it


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
    if any(row.group is not None for row in uncut.parts["train"]):
        for part, name in USUAL_NAMES.items():
            rows = uncut.parts.get(part, [])
            if rows and all(row.group is None for row in rows):
                notes.append(
                    f"The {name} part has no group in its rows, so that train may hold rows of the same "
                    "groups; add the column of --group-column there."
                )
    n_removed = _remove_duplicates(uncut, notes)
    splits = cut_splits(uncut, spec.max_examples, seed=seed, notes=notes)
    _require_classes(uncut.target, splits["train"], notes)
    given = [part for part, rows in uncut.parts.items() if rows]
    _note_absent_labels(uncut.target, splits, notes, given=given)
    labels = Counter(name for row in splits["train"] for name in names_in(row.label))
    is_number = uncut.target.kind == "number"
    target = replace(uncut.target, counts=() if is_number else tuple(labels[x] for x in uncut.target.names))
    are_counted = spec.group_column is not None and target.kind not in _IN_BLOCKS
    _note_groups(splits, notes, are_counted=are_counted)
    content = {part: [[row.inputs, row.label] for row in rows] for part, rows in splits.items()}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
    return LabelledData(
        **{part: _split(part, rows, target, has_groups=are_counted) for part, rows in splits.items()},
        target=target,
        text_columns=uncut.input_columns,
        label_column=uncut.label_column,
        name=uncut.name,
        fingerprint=digest[:16],
        duplicates_removed=n_removed,
        notes=tuple(map(without_long_words, notes)),
    )


def _remove_duplicates(uncut: UncutRows, notes: list[str]) -> int:
    """Keep each input in its most precious part only, and once in train; returns how many rows were removed.

    Where inputs may repeat (a prompt with several answers), train keeps rows whose labels differ, and of
    shared inputs (a fixed instruction) all parts do. A continuous text keeps all rows. The user's test and
    confirm may repeat an example within themselves.

    Also counts them in `uncut.left_out`.

    Raises:
        DataError: No row of train is left.
    """
    if uncut.target.kind == "stream":
        return 0
    parts, kept_labels, seen, seen_groups = uncut.parts, dict[Any, Any](), set[Any](), set[str]()
    needs_answers = uncut.may_repeat or bool(uncut.shared_inputs)
    n_removed = n_grouped = n_other_label = 0
    for part in sorted(parts, key=_PRECIOUS.index):
        in_part, groups_in_part = set[Any](), set[str]()
        kept, n_grouped_before = [], n_grouped
        for row in parts[part]:
            inputs = _normalised(row.inputs)
            answered = (inputs, _normalised(row.label)) if needs_answers else inputs
            key = answered if uncut.may_repeat else inputs
            across_parts = answered if row.inputs in uncut.shared_inputs else inputs
            if row.group is not None and row.group in seen_groups:
                n_grouped += 1
            elif across_parts not in seen and not (part == "train" and key in in_part):
                kept.append(row)
                kept_labels.setdefault(inputs, row.label)
                in_part.update((inputs, answered))
                if row.group is not None:
                    groups_in_part.add(row.group)
            elif not uncut.may_repeat:
                label, kept_label = row.label, kept_labels[inputs]
                if uncut.target.kind == "classes":  # in any order
                    label, kept_label = set(label), set(kept_label)
                n_other_label += label != kept_label
        if part == "train" and parts[part] and not kept:
            others = " or ".join(name for part, name in USUAL_NAMES.items() if part in parts)
            noun = "rows, or their groups," if n_grouped else "prompts" if uncut.may_repeat else "rows"
            raise DataError(
                f"All {len(parts['train'])} train {noun} also stand in {others} and were removed as "
                f"duplicates; give other train rows, or a {others} file without them."
            )
        if part == "train":
            n_in_groups = n_grouped - n_grouped_before
            uncut.left_out["rows of groups that another split holds"] = n_in_groups
            uncut.left_out["duplicates"] = len(parts[part]) - len(kept) - n_in_groups
        n_removed += len(parts[part]) - len(kept)
        parts[part] = kept
        seen |= in_part
        seen_groups |= groups_in_part
    is_text = all(isinstance(item, str | tuple) for row in parts["train"][:1] for item in row.inputs)
    content = "text" if is_text else "image"
    if n_repeated := n_removed - n_grouped:
        kept_by = "; the most precious split kept it" if len(parts) > 1 else ""
        notes.append(f"Removed {counted(n_repeated, 'row')} whose {content} occurs again{kept_by}.")
    if n_other_label:
        notes.append(
            f"Of the removed rows {n_other_label} had another label than the row with their {content} that "
            f"was kept; check the labels of {content}s that occur again."
        )
    if n_grouped:
        notes.append(f"Removed {counted(n_grouped, 'row')} whose group stands in a more precious split.")
    return n_removed


def _normalised(value: Any) -> Any:
    """What a value is compared by: texts in lower case and with single blanks, also inside of tuples."""
    if isinstance(value, str):
        return " ".join(value.lower().split())
    return tuple(map(_normalised, value)) if isinstance(value, tuple | list) else value


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
            cut = (
                "; add some"
                if part in given
                else f" (this split is cut from train, {CUT_AT_MOST:,} rows at most)"
            )
            is_file_wanted = part == "confirm" and part not in given
            remedy = cut + "; give a validation file with such rows to judge them" * is_file_wanted
            notes.append(
                f"The {part} split has no row with {what} of train, so that its {n_rows} tell nothing of how "
                f"well such rows are labelled{remedy}."
            )


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


def _split(part: str, rows: list[Row], target: Target, *, has_groups: bool) -> Split:
    indices = {name: index for index, name in enumerate(target.names)}

    def encoded(label: Any) -> Any:
        if isinstance(label, tuple):
            return tuple(IGNORED if name is None else indices[name] for name in label)
        return indices[label] if target.kind in ("class", "choice") else label

    members = groups_of(rows)
    number_of = {row: number for number, group in enumerate(members) for row in group}
    numbers = tuple(number_of[row] for row in range(len(rows)))
    return Split(
        name=part,
        inputs=tuple(row.inputs for row in rows),
        labels=tuple(encoded(row.label) for row in rows),
        groups=numbers if has_groups and len(members) < len(rows) else (),
    )
