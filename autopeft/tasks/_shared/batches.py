"""Makes batches of rows of token ids, padded on the right, and runs a model on a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autopeft.plugins import Batch, Example

Rows = Sequence[Sequence[Any]]  # one tuple of inputs per row, as the task's `read_rows` makes it


def pad(rows: Sequence[Sequence[int]], filler: int) -> Tensor:
    """Pad rows on the right with `filler`, to an int64 tensor (B, T); T is the length of the longest row."""
    lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    padded = np.full((len(rows), lengths.max()), filler, dtype=np.int64)
    padded[np.arange(padded.shape[1]) < lengths[:, None]] = np.concatenate(rows)
    return torch.from_numpy(padded)


def pad_features(examples: Sequence[Example], pad_token_id: int) -> Batch:
    """Pad token features to (B, T): `input_ids` with the padding token, all other features with 0."""
    fillers = {"input_ids": pad_token_id}
    return {name: pad([row[name] for row in examples], fillers.get(name, 0)) for name in examples[0]}


def without_labels(batch: Batch) -> Batch:
    """Return the features of a batch, with which the model is called."""
    return {name: value for name, value in batch.items() if name != "labels"}


def logits_of(model: nn.Module, batch: Batch) -> Tensor:
    """Compute logits (B, …, C), converted to fp32; the model does not see the labels."""
    logits: Tensor = model(**without_labels(batch)).logits
    return logits.float()
