"""Cuts the splits that the user does not have out of train."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.model_selection import train_test_split

from autopeft.data.dataset import Row, SplitRows
from autopeft.data.labels import names_in
from autopeft.errors import DataError
from autopeft.plugins import LabelSpace
from autopeft.types import counted

_FEWEST_GROUPS = 2  # remain when `max_examples` drops groups: one for train and one for search
_MIN_ROWS = 30  # for train and search together, so that train keeps 20; heuristic
# A cut takes this share of train, within these limits, and never more than a third; heuristic.
_CUT_PERCENT, _CUT_AT_LEAST, _CUT_AT_MOST = 15, 50, 2000
_SPREAD = 3  # a label with so many rows gets one in each of train, search and confirm


def cut_splits(
    splits: SplitRows, label_space: LabelSpace, max_examples: int | None, *, dropped: Sequence[str], seed: int
) -> tuple[SplitRows, list[str]]:
    """Cut search out of train, and confirm too unless the user has it, with notes on each cut.

    `max_examples` limits train and search together; None takes all. `dropped` are earlier notes, for errors.
    """
    kind, train, confirm = label_space.kind, splits["train"], splits.get("confirm", [])
    has_classes = kind in ("class", "classes", "tags")
    cutter = Cutter(has_classes=has_classes, seed=seed % 2**32)
    counts = Counter(name for row in train for name in names_in(row.label)) if has_classes else Counter()
    spread = frozenset(name for name, n in counts.items() if n >= _SPREAD and kind != "tags")
    notes = list[str]()
    if not confirm:
        train, confirm, note = cutter.cut(train, "confirm", spread=spread)
        notes.append(note)
    n_labels = len({name for row in train for name in names_in(row.label)}) if kind == "class" else 0
    n_needed = max(_MIN_ROWS, 2 * n_labels)
    if min(len(train), max_examples or len(train)) < n_needed:
        limit = f", and --max-examples is {max_examples}" if max_examples else ""
        per_label = f" (2 for each of {n_labels} labels)" if n_needed > _MIN_ROWS else ""
        raise DataError(
            f"Train has {counted(len(train), 'row')} to learn from{limit}; {n_needed} are needed{per_label}. "
            + " ".join([*dropped, *notes, "Add rows, or raise --max-examples if it is set."])
        )
    if max_examples and max_examples < len(train):
        train, note = cutter.without_surplus(train, max_examples)
        notes.append(note)
    train, search, note = cutter.cut(train, "search", spread=spread)
    cut = {"train": train, "search": search, "confirm": confirm, "test": splits.get("test", [])}
    return cut, [*notes, note]


@dataclass(frozen=True, kw_only=True)
class Cutter:
    """Cuts rows out of train: whole groups if there are some, else by class."""

    has_classes: bool
    seed: int

    def cut(self, rows: list[Row], name: str, *, spread: frozenset[str]) -> tuple[list[Row], list[Row], str]:
        """Cut a split out of rows; return the rows that remain, the rows that are cut out, and a note.

        A cut at random holds each label of `spread`, if train need not lose a label for it.
        """
        share = -(-_CUT_PERCENT * len(rows) // 100)  # rounded up
        n_out = min(max(share, _CUT_AT_LEAST), _CUT_AT_MOST, len(rows) // 3)
        if any(row.group is not None for row in rows):
            out, too_large = self._fitting_groups(rows, n_out, n_stay=1)
            out, how = out or set(min(too_large, key=len, default=())), "whole groups"
            if not 0 < len(out) <= max(n_out, len(rows) // 2):
                raise DataError(
                    f"The {len(rows)} train rows have {counted(len(groups_of(rows)), 'group')}, and none can "
                    "be cut out; name a finer data.group_column, or give the split as a file of its own."
                )
        else:
            out, how = self._rows(rows, n_out)
            out = self._with_labels(rows, out, spread)
        note = f"Cut {len(out)} of {len(rows)} train rows as {name}, {how}."
        stays = [row for i, row in enumerate(rows) if i not in out]
        return stays, [row for i, row in enumerate(rows) if i in out], note

    def without_surplus(self, rows: list[Row], n_most: int) -> tuple[list[Row], str]:
        """Drop whole groups and then single rows, until `n_most` remain."""
        n_out, out = len(rows) - n_most, set[int]()
        if any(row.group is not None for row in rows):
            out, _ = self._fitting_groups(rows, n_out, n_stay=_FEWEST_GROUPS)
        stays = [i for i in range(len(rows)) if i not in out]
        if n_singles := n_out - len(out):
            singles, _ = self._rows([rows[i] for i in stays], n_singles)
            stays = [i for at, i in enumerate(stays) if at not in singles]
        note = f"Dropped {n_out} of {len(rows)} train rows, by max_examples {n_most}."
        return [rows[i] for i in stays], note

    def _rows(self, rows: Sequence[Row], n_out: int) -> tuple[set[int], str]:
        """Draw `n_out` rows, stratified if possible, and describe how; no label may leave train."""
        labels = [self._labels(row) for row in rows]
        counts, order = Counter(name for names in labels for name in names), range(len(rows))
        if not self.has_classes:
            return set(np.random.default_rng(self.seed).permutation(len(rows))[:n_out].tolist()), "at random"
        is_single = all(len(names) == 1 for names in labels)
        common = [i for i in order if is_single and counts[labels[i][0]] >= 2]  # a label's only row stays
        # Numbers of labels: in an array, each text would be as long as the longest.
        places = {name: at for at, name in enumerate(sorted(counts))}
        strata = np.array([places[labels[i][0]] for i in common])
        if common and len(set(strata.tolist())) <= min(n_out, len(common) - n_out):
            _, cut = train_test_split(
                np.array(common), test_size=n_out, stratify=strata, random_state=self.seed
            )
            out = set(cut.tolist())
            if len({labels[i][0] for i in order if i not in out}) == len(counts):
                return out, "stratified by label"
        kept_row = {name: i for i in reversed(order) for name in labels[i]}  # the first of each label
        free = sorted(set(order) - set(kept_row.values()))
        if len(free) < n_out:
            raise DataError(
                f"{n_out} of {len(rows)} train rows are to be cut out, but only {len(free)} can be if train "
                f"keeps each of its {len(counts)} labels; check that the label column holds classes, drop "
                "rare labels, or raise --max-examples if it is set."
            )
        how = "as labels are too rare or too many" if is_single else "every label stays in train"
        drawn = np.random.default_rng(self.seed).permutation(free)[:n_out].tolist()
        return set(drawn), f"not stratified, {how}"

    def _with_labels(self, rows: Sequence[Row], out: set[int], spread: frozenset[str]) -> set[int]:
        """Swap rows so that the cut has each label of `spread`, if possible without losing another label."""
        labels = [self._labels(row) for row in rows]
        inside = Counter(name for i in out for name in labels[i])
        missing = sorted(spread - inside.keys())
        if not missing:
            return out
        stays = Counter(name for i, names in enumerate(labels) if i not in out for name in names)
        order: list[int] = np.random.default_rng(self.seed).permutation(len(rows)).tolist()
        rows_with: dict[str, list[int]] = {name: [] for name in missing}
        for i in order:
            for name in rows_with.keys() & labels[i]:
                rows_with[name].append(i)
        out = set(out)
        for name in missing:
            may_come = (i for i in rows_with[name] if i not in out and all(stays[n] > 1 for n in labels[i]))
            may_go = (i for i in order if i in out and all(inside[n] > 1 for n in labels[i]))
            comes = None if inside[name] else next(may_come, None)
            goes = max(may_go, key=lambda i: min((inside[n] for n in labels[i]), default=0), default=None)
            if comes is None or goes is None:
                continue
            out = out - {goes} | {comes}
            for counts, gained, lost in ((inside, comes, goes), (stays, goes, comes)):
                counts.update(labels[gained])
                counts.subtract(labels[lost])
        return out

    def _fitting_groups(
        self, rows: Sequence[Row], n_out: int, *, n_stay: int
    ) -> tuple[set[int], list[list[int]]]:
        """Draw whole groups of at most `n_out` rows, and list those that are too large."""
        groups = groups_of(rows)
        n_rows_with = Counter(name for row in rows for name in self._labels(row))
        out, too_large, n_groups = set[int](), list[list[int]](), len(groups)
        order: list[int] = np.random.default_rng(self.seed).permutation(len(groups)).tolist()
        for group in (groups[at] for at in order):
            lost = Counter(name for i in group for name in self._labels(rows[i]))
            if n_groups <= n_stay or any(n_rows_with[name] <= n for name, n in lost.items()):
                continue
            if len(out) + len(group) <= n_out:
                out.update(group)
                n_rows_with.subtract(lost)
                n_groups -= 1
            else:
                too_large.append(group)
        return out, too_large

    def _labels(self, row: Row) -> tuple[str, ...]:
        return tuple(dict.fromkeys(names_in(row.label))) if self.has_classes else ()


def groups_of(rows: Sequence[Row]) -> list[list[int]]:
    """List the row indices of each group; a row without a group is a group of its own."""
    groups: dict[Any, list[int]] = {}
    for i, row in enumerate(rows):
        groups.setdefault(i if row.group is None else row.group, []).append(i)
    return list(groups.values())
