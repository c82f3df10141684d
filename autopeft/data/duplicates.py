"""Removes rows whose inputs occur again, so that no two splits share an example."""

from __future__ import annotations

from typing import Any

from autopeft.data.rows import USUAL_NAMES, UncutRows
from autopeft.errors import DataError
from autopeft.records import counted

PRECIOUS = ("test", "confirm", "train")  # the first part that has an example keeps it


def remove_duplicates(uncut: UncutRows, notes: list[str]) -> int:
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
    _note_missing_groups(uncut, notes)
    for part in sorted(parts, key=PRECIOUS.index):
        in_part, groups_in_part = set[Any](), set[str]()
        kept, n_grouped_before = [], n_grouped
        for row in parts[part]:
            inputs = normalised(row.inputs)
            answered = (inputs, normalised(row.label)) if needs_answers else inputs
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
            elif not uncut.may_repeat and not _is_same(row.label, kept_labels[inputs], uncut.target.kind):
                n_other_label += 1
        if part == "train" and parts[part] and not kept:
            raise DataError(_all_removed(uncut, n_grouped=n_grouped))
        if part == "train":
            n_in_groups = n_grouped - n_grouped_before
            uncut.left_out["rows of groups that another split holds"] = n_in_groups
            uncut.left_out["duplicates"] = len(parts[part]) - len(kept) - n_in_groups
        n_removed += len(parts[part]) - len(kept)
        parts[part] = kept
        seen |= in_part
        seen_groups |= groups_in_part
    if n_repeated := n_removed - n_grouped:
        content = _content_of(uncut)
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


def _note_missing_groups(uncut: UncutRows, notes: list[str]) -> None:
    """Note parts without groups beside a train that has them, whose groups cannot be kept apart."""
    if all(row.group is None for row in uncut.parts["train"]):
        return
    for part, name in USUAL_NAMES.items():
        rows = uncut.parts.get(part, [])
        if rows and all(row.group is None for row in rows):
            notes.append(
                f"The {name} part has no group in its rows, so that train may hold rows of the same groups; "
                "add the column of --group-column there."
            )


def _content_of(uncut: UncutRows) -> str:
    """What an input is in words."""
    is_text = all(isinstance(item, str | tuple) for row in uncut.parts["train"][:1] for item in row.inputs)
    return "text" if is_text else "image"


def _is_same(label: Any, other: Any, kind: str) -> bool:
    """Whether two labels are equal; the order of several classes does not matter."""
    return set(label) == set(other) if kind == "classes" else bool(label == other)


def _all_removed(uncut: UncutRows, *, n_grouped: int) -> str:
    """What to say where the user's validation and test hold every row of train."""
    others = " or ".join(name for part, name in USUAL_NAMES.items() if part in uncut.parts)
    noun = "rows, or their groups," if n_grouped else "prompts" if uncut.may_repeat else "rows"
    return (
        f"All {len(uncut.parts['train'])} train {noun} also stand in {others} and were removed as "
        f"duplicates; give other train rows, or a {others} file without them."
    )


def normalised(value: Any) -> Any:
    """What a value is compared by: texts in lower case and with single blanks, also inside of tuples."""
    if isinstance(value, str):
        return " ".join(value.lower().split())
    return tuple(map(normalised, value)) if isinstance(value, tuple | list) else value
