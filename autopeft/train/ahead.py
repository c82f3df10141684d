"""The rows of large splits that a run reads, encoded before its first measurement."""

from __future__ import annotations

import logging
from collections.abc import Sequence

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
    train = bench.splits["train"]
    if all(split.lazy is None for split in bench.splits.values()):
        return
    n_rows = min(len(train.labels), sum(fidelity.train_examples for fidelity in fidelities))
    log.info("Tokenising the rows that the run reads, %s of train at most.", f"{n_rows:,}")
    for at in fidelities:
        train_rows(train.lengths, n_steps=at.train_steps, batch_size=bench.batch_size, seed=at.seed)
        split = bench.splits[at.split]
        split.lengths[split.subset(at.eval_examples)]
