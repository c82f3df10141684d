"""Encodes the rows of a large split when they are first read, and keeps them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from autopeft.plugins import Encoded, Example

IMAGE_TOKENS = 196  # counted for an image: 224 × 224 pixels in patches of 16 × 16, as in ViT
_AT_ONCE = 10_000  # rows that the task encodes in one call; heuristic
_TYPICAL = 2000  # rows whose mean represents all; heuristic
_LONGEST = 128  # rows with the most characters, among which the most tokens are sought; heuristic


class Counts(Protocol):
    """Tokens by row: an array (N,), or a column that counts them when they are read."""

    def __len__(self) -> int:
        """Return the number of rows."""

    def __getitem__(self, rows: Any, /) -> Any:
        """Return the tokens of one row, or an array with those of several rows."""


class LazyRows:
    """The examples of a split, encoded when they are first read.

    `typical` are random rows, whose mean represents all. `known` are these and the rows with the most
    characters, whose longest represents all.
    """

    def __init__(
        self, characters: NDArray[np.int64], encode: Callable[[Sequence[int]], Encoded], *, seed: int
    ) -> None:
        """Encode nothing yet; `characters` are counts by row, and `seed` draws the typical rows."""
        n_rows = len(characters)
        self.numbers = np.arange(n_rows)
        self.typical = np.sort(np.random.default_rng(seed).permutation(n_rows)[:_TYPICAL])
        self.known = np.union1d(self.typical, characters.argsort(kind="stable")[-_LONGEST:])
        self._encode = encode
        self._is_encoded = np.zeros(n_rows, dtype=bool)
        self.examples, self.labels = (LazyColumn(self, np.empty(n_rows, dtype=object)) for _ in range(2))
        self.lengths, self.sizes = (LazyColumn(self, np.zeros(n_rows, dtype=np.int64)) for _ in range(2))

    def require(self, rows: NDArray[np.int64]) -> None:
        """Encode the rows that are not encoded yet; raises what the task's `encode` raises."""
        missing = np.unique(rows[~self._is_encoded[rows]])
        for start in range(0, len(missing), _AT_ONCE):
            some = missing[start : start + _AT_ONCE].tolist()
            self.keep(some, self._encode(some))

    def keep(self, rows: Sequence[int], encoded: Encoded) -> None:
        """Store the examples, labels and counts of encoded rows; each row is one example."""
        for row, example, label in zip(rows, encoded.examples, encoded.labels, strict=True):
            self.examples.values[row], self.labels.values[row] = example, label
            self.lengths.values[row] = length_of(example)
            self.sizes.values[row] = size_of(example, label)
            self._is_encoded[row] = True


class LazyColumn(Sequence[Any]):
    """A column of lazy rows: reading some of them encodes them first."""

    def __init__(self, rows: LazyRows, values: NDArray[Any]) -> None:
        self._rows, self.values = rows, values

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, key: Any) -> Any:
        self._rows.require(np.atleast_1d(self._rows.numbers[key]))
        return self.values[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self[:])


def length_of(example: Example) -> int:
    """Count the tokens of an example; 1 if it has none (an image)."""
    return len(example.get("input_ids", ())) or 1


def size_of(example: Example, label: Any) -> int:
    """Count the tokens that an example adds to a batch: its own, or its labels if more."""
    n_tokens = len(example.get("input_ids", ()))
    n_labels = len(label) if isinstance(label, Sequence | np.ndarray) else 0
    return max(n_tokens, n_labels) if n_tokens else IMAGE_TOKENS
