"""The records of a dataset: a row as read, a split, and the whole."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from autopeft.extension import Target
from autopeft.records import DataSpec


class Row(NamedTuple):
    """One example as read: `inputs` as its task takes them, the label as it is written there.

    Rows of one `group` stay in one split; None is a row by itself.
    """

    inputs: tuple[Any, ...]
    label: Any
    group: str | None = None


Parts = dict[str, list[Row]]


@dataclass(frozen=True, kw_only=True)
class Read:
    """The rows of train, confirm and test of a dataset as a task reads them, before any cut.

    `in_order` says that rows next to each other belong together (a text, a time line), so that what
    is cut out of train is its end. `may_repeat` says that the same inputs may stand in one part twice.
    """

    name: str
    parts: Parts
    target: Target
    input_columns: tuple[str, ...]
    label_column: str
    in_order: bool = False
    may_repeat: bool = False


ReadRows = Callable[[DataSpec, list[str]], Read]  # adds a note in plain words on each decision to the list


@dataclass(frozen=True, kw_only=True)
class Split:
    """One split's rows: `inputs` holds what one example is made of, such as one string per text column.

    `labels` are as the target says: an index into its names, several, a number, one index per token, a text.
    """

    name: str
    inputs: tuple[tuple[Any, ...], ...]
    labels: tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class LabelledData:
    """Four splits that share no example; `test` is empty where the user has none.

    `fingerprint` is 16 hex digits over the inputs and labels of all four splits in
    order; file format, path and machine do not enter it, the seed does through the cuts.
    """

    train: Split
    search: Split
    confirm: Split
    test: Split
    target: Target
    text_columns: tuple[str, ...]
    label_column: str
    name: str
    fingerprint: str
    duplicates_removed: int
    notes: tuple[str, ...]

    @property
    def label_names(self) -> tuple[str, ...]:
        """The labels that there are, in the order of the model's outputs."""
        return self.target.names


def fingerprint_text(splits: Mapping[str, list[Row]]) -> str:
    """What the fingerprint is taken of: inputs and labels alone."""
    content = {name: [[row.inputs, row.label] for row in rows] for name, rows in splits.items()}
    return json.dumps(content, sort_keys=True, default=str)
