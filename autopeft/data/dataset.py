"""The records of a dataset: one row, the rows before any cut, a split, and the four splits together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, NamedTuple

from autopeft.plugins import LabelKind, LabelSpace
from autopeft.types import DataSpec


class Row(NamedTuple):
    """One example as read; `number` counts the rows of its table from 1, for messages."""

    inputs: tuple[Any, ...]
    label: Any
    group: str | None = None
    number: int = 0


# The names that users give to the files of held-out splits.
USUAL_NAMES = {"test": "test", "confirm": "validation"}
SplitRows = dict[str, list[Row]]  # split -> rows: train, and confirm and test if the user has them


@dataclass(frozen=True, kw_only=True)
class UncutRows:
    """The rows of train, confirm and test as a task reads them; a missing input or label is None."""

    name: str
    splits: SplitRows
    kind: LabelKind
    input_columns: tuple[str, ...]
    label_column: str
    declared_names: tuple[str, ...] = ()  # of labels, in the order of the dataset; () if it declares none
    notes: tuple[str, ...] = ()  # a sentence for the user on each decision


ReadRows = Callable[[DataSpec], UncutRows]


@dataclass(frozen=True, kw_only=True)
class Split:
    """The rows of one split: `inputs` has one tuple per example, such as one string per text column.

    `labels` are as the label space says: an index into its names, several indices, a number, one index per
    token (-100 where it has no tag), or a text. `groups` has one number per example, equal for examples with
    the same cell in the group column; it is empty if no two examples share a cell.
    """

    name: str
    inputs: tuple[tuple[Any, ...], ...]
    labels: tuple[Any, ...]
    groups: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class LabelledData:
    """Four splits that share no example; `test` is empty if the user has none.

    `fingerprint` is 16 hex digits over the inputs and labels of all splits in order. File format, path and
    machine do not change it; the seed does, through the cuts.
    """

    train: Split
    search: Split
    confirm: Split
    test: Split
    label_space: LabelSpace
    text_columns: tuple[str, ...]
    label_column: str
    name: str
    fingerprint: str
    duplicates_removed: int
    notes: tuple[str, ...]

    def with_all_rows(self) -> LabelledData:
        """Add the rows of search and confirm to train, for a plan that was chosen before."""
        train = self.joined("train", "search", "confirm")
        note = f"All {len(train.labels):,} rows of train, search and confirm are trained on."
        return replace(self, train=train, notes=(*self.notes, note))

    def joined(self, *names: str) -> Split:
        """Concatenate some splits under the name of the first."""
        splits: list[Split] = [getattr(self, name) for name in names]
        inputs = tuple(chain.from_iterable(split.inputs for split in splits))
        labels = tuple(chain.from_iterable(split.labels for split in splits))
        return Split(name=names[0], inputs=inputs, labels=labels)

    @property
    def label_names(self) -> tuple[str, ...]:
        """The labels in the order of the model's outputs."""
        return self.label_space.names
