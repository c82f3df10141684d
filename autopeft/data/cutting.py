"""Splits that share no example: what occurs again is removed, and what the user lacks is cut out of train."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.model_selection import train_test_split

from autopeft.data.labels import names_in
from autopeft.data.rows import Parts, Read, Row
from autopeft.errors import DataError

PRECIOUS = ("test", "confirm", "train")
_FAR = 0.25  # off the size that was wanted, as a share of it, before a note says so; chosen by hand
MIN_ROWS = 30  # for train and search together, so that train keeps 20; chosen by hand


def remove_duplicates(found: Read, notes: list[str]) -> int:
    """Keeps inputs in their most precious part only, and once in train; changes the parts.

    Where inputs may repeat (a prompt with several answers), train drops only what repeats answer and all.
    """
    if found.target.kind == "stream":  # a text repeats itself
        return 0
    parts, seen, groups = found.parts, set[Any](), set[str]()
    n_removed = n_grouped = 0
    for part in sorted(parts, key=PRECIOUS.index):
        earlier, above = set(seen), set(groups)  # the user's own test and confirm may repeat an example
        within: set[Any] = set()
        kept = []
        for row in parts[part]:
            key = tuple(map(plain, row.inputs))
            own = (key, plain(row.label)) if found.may_repeat else key
            if row.group is not None and row.group in above:
                n_grouped += 1
            elif key not in earlier and not (part == "train" and own in within):
                kept.append(row)
                seen.add(key)
                within.add(own)
                groups.update([row.group] if row.group is not None else [])
        n_removed += len(parts[part]) - len(kept)
        parts[part] = kept
    if n_removed - n_grouped:
        notes.append(
            f"Removed {n_removed - n_grouped} rows whose text occurs again; the most precious split kept it."
        )
    if n_grouped:
        notes.append(f"Removed {n_grouped} rows whose group stands in a more precious split.")
    return n_removed


def plain(value: Any) -> Any:
    """What two values are compared by: texts without regard to case and spacing."""
    if isinstance(value, str):
        return " ".join(value.lower().split())
    return tuple(map(plain, value)) if isinstance(value, tuple | list) else value


@dataclass(frozen=True, kw_only=True)
class Cutter:
    """How rows are cut out of train: by class, by group, at its end, or by group at its end."""

    has_classes: bool
    in_order: bool
    seed: int

    def cut(self, rows: list[Row], n_out: int, name: str, notes: list[str]) -> tuple[list[Row], list[Row]]:
        """What stays and what is cut out, each in the order of `rows`; every label stays."""
        order, has_groups = range(len(rows)), any(row.group is not None for row in rows)
        if self.in_order and has_groups:
            out, how = _last_groups(rows, n_out), "whole groups, by their last rows"
        elif self.in_order:
            out, how = set(order[len(rows) - n_out :]), "its last rows"
        elif has_groups:
            out, how = self._groups(rows, n_out), "whole groups"
        else:
            out, how = self._rows(rows, n_out)
        far = f" ({n_out} were wanted)" if has_groups and abs(len(out) - n_out) > _FAR * n_out else ""
        notes.append(f"Cut {len(out)} of {len(rows)} train rows as {name}, {how}{far}.")
        stays, is_out = ([rows[i] for i in order if (i in out) == chosen] for chosen in (False, True))
        self._require_labels(stays, rows, name)
        return stays, is_out

    def _rows(self, rows: Sequence[Row], n_out: int) -> tuple[set[int], str]:
        labels = [self._labels(row) for row in rows]
        counts, order = Counter(name for names in labels for name in names), range(len(rows))
        out: set[int] = set()
        if not self.has_classes:
            return set(self._rng().permutation(len(rows))[:n_out].tolist()), "at random"
        is_single = all(len(names) == 1 for names in labels)
        if is_single and min(counts.values()) >= 2 and len(counts) <= min(n_out, len(rows) - n_out):
            strata = [names[0] for names in labels]
            out = set(
                train_test_split(order, test_size=n_out, stratify=strata, random_state=self.seed % 2**32)[1]
            )
        if out and len({name for i in order if i not in out for name in labels[i]}) == len(counts):
            return out, "stratified by label"
        first: dict[str, int] = {}
        for i in order:
            for name in labels[i]:
                first.setdefault(name, i)
        free = sorted(set(order) - set(first.values()))
        how = "as labels are too rare or too many" if is_single else "every label stays in train"
        return set(self._rng().permutation(free)[:n_out].tolist()), f"not stratified, {how}"

    def _groups(self, rows: Sequence[Row], n_out: int) -> set[int]:
        """Groups in random order, as long as they fit and leave every label in train; else the smallest."""
        members = _members(rows)
        left = Counter(name for row in rows for name in self._labels(row))
        out, spared = set[int](), list[list[int]]()
        for at in self._rng().permutation(len(members)).tolist():
            own = members[at]
            lost = Counter(name for i in own for name in self._labels(rows[i]))
            if any(left[name] <= n for name, n in lost.items()):
                continue
            if len(out) + len(own) <= n_out:
                out.update(own)
                left -= lost
            else:
                spared.append(own)
        if not out and spared:
            smallest = min(spared, key=len)
            out.update(smallest)
        return _not_too_many(out, rows, n_out)

    def _labels(self, row: Row) -> tuple[str, ...]:
        return tuple(dict.fromkeys(names_in(row.label))) if self.has_classes else ()

    def _require_labels(self, stays: Sequence[Row], rows: Sequence[Row], name: str) -> None:
        lost = {label for row in rows for label in self._labels(row)}
        lost -= {label for row in stays for label in self._labels(row)}
        if lost:
            raise DataError(
                f"With the last rows cut out as {name}, no train row has label {min(lost)!r}; "
                "leave out data.time_column, or give the split as a file of its own."
            )

    def _rng(self) -> np.random.Generator:
        return np.random.default_rng(self.seed % 2**32)


def _members(rows: Sequence[Row]) -> list[list[int]]:
    """The places of each group's rows; a row without a group is one by itself."""
    members: dict[Any, list[int]] = {}
    for i, row in enumerate(rows):
        members.setdefault(i if row.group is None else row.group, []).append(i)
    return list(members.values())


def _last_groups(rows: Sequence[Row], n_out: int) -> set[int]:
    """Groups from the one whose last row is the latest, as many as come nearest to `n_out` rows."""
    out = set[int]()
    for own in sorted(_members(rows), key=max, reverse=True):
        if out and abs(len(out) + len(own) - n_out) >= abs(len(out) - n_out):
            break
        out.update(own)
    return _not_too_many(out, rows, n_out)


def _not_too_many(out: set[int], rows: Sequence[Row], n_out: int) -> set[int]:
    """What is cut out; raises DataError where it is nothing, or more than was wanted and than half."""
    if not 0 < len(out) <= max(n_out, len(rows) // 2):
        raise DataError(
            f"The {len(rows)} train rows have {len(_members(rows))} groups, none of which can be cut out; "
            "name a finer data.group_column, or give the split as a file of its own."
        )
    return out


def cut_splits(found: Read, cap: int | None, *, seed: int, notes: list[str]) -> Parts:
    """Train, search, confirm and test; `cap` bounds train and search together."""
    has_classes = bool(found.target.names) and found.target.kind not in ("number", "choice")
    cutter = Cutter(has_classes=has_classes, in_order=found.in_order, seed=seed)
    train, confirm = found.parts["train"], found.parts.get("confirm", [])
    if not confirm:
        train, confirm = cutter.cut(train, _cut_size(len(train)), "confirm", notes)
    n_labels = len({name for row in train for name in names_in(row.label)}) if has_classes else 0
    n_needed = max(MIN_ROWS, 2 * n_labels if found.target.kind == "class" else 0)
    if min(len(train), cap or len(train)) < n_needed:
        seen = f"There are {len(train)} rows to learn from" + f" and data.max_examples is {cap}" * bool(cap)
        raise DataError(f"{seen}; {n_needed} are needed, 2 per label. Add rows or check the label column.")
    if cap and cap < len(train):
        if found.in_order:
            notes.append(f"Kept the last {cap} of {len(train)} train rows, by max_examples {cap}.")
            train = train[-cap:]
        else:
            train = cutter.cut(train, len(train) - cap, f"surplus to max_examples {cap}", notes)[0]
    train, search = cutter.cut(train, _cut_size(len(train)), "search", notes)
    return {"train": train, "search": search, "confirm": confirm, "test": found.parts.get("test", [])}


def _cut_size(n_rows: int) -> int:
    return min(max(-(-15 * n_rows // 100), 50), 2000, n_rows // 3)
