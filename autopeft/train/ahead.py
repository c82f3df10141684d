"""The rows of large splits that a run reads, encoded before its first measurement."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from autopeft.records import Fidelity
from autopeft.train.bench import Bench
from autopeft.train.encoding import train_rows

log = logging.getLogger(__name__)


def encode_ahead(bench: Bench, fidelities: Sequence[Fidelity]) -> None:
    """Encode the rows that measurements at some fidelities read, where they are not encoded yet.

    Their time then counts to no measurement, and a row that cannot be encoded is refused before all of them.

    Raises:
        DataError: A row cannot be encoded.
        ModelError: The tokenizer gives tokens that the model lacks.
    """
    if all(split.lazy is None for split in bench.splits.values()):
        return
    needed = {name: _NotedRows(len(split.labels)) for name, split in bench.splits.items()}
    for at in fidelities:
        train_rows(needed["train"], n_steps=at.train_steps, batch_size=bench.batch_size, seed=at.seed)
        needed[at.split].note(bench.splits[at.split].subset(at.eval_examples))
    n_rows = sum(noted.is_read.sum() for noted in needed.values())
    log.info("The run may read %s rows, which are tokenised now.", f"{n_rows:,}")
    for name, noted in needed.items():
        bench.splits[name].lengths[noted.is_read.nonzero()[0]]  # all at once: a call has its price


class _NotedRows:
    """Stands for the lengths of rows, which may have any value, and notes of which rows they are read."""

    def __init__(self, n_rows: int) -> None:
        self.is_read = np.zeros(n_rows, dtype=bool)

    def __len__(self) -> int:
        return len(self.is_read)

    def __getitem__(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        self.note(rows)
        return np.zeros(len(rows), dtype=np.int64)

    def note(self, rows: Sequence[int] | NDArray[np.int64]) -> None:
        """Note some rows as read."""
        self.is_read[rows] = True
