"""Rows of token ids become batches, padded on the right; a model's logits for a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autopeft.extension import IGNORED, Batch, Example

Rows = Sequence[Sequence[Any]]  # per row what its example is made of, as the task's `read_rows` has it


def pad(rows: Sequence[Sequence[int]], filler: int) -> Tensor:
    """Shape (B, T) with T the longest row, int64."""
    lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    padded = np.full((len(rows), lengths.max()), filler, dtype=np.int64)
    padded[np.arange(padded.shape[1]) < lengths[:, None]] = np.concatenate(rows)
    return torch.from_numpy(padded)


def pad_features(examples: Sequence[Example], pad_token_id: int) -> Batch:
    """Token features (B, T): `input_ids` padded with the padding token, all others with 0."""
    fillers = {"input_ids": pad_token_id}
    return {name: pad([row[name] for row in examples], fillers.get(name, 0)) for name in examples[0]}


def without_labels(batch: Batch) -> Batch:
    """The features of a batch, which the model is called with."""
    return {name: value for name, value in batch.items() if name != "labels"}


def n_labelled(labels: Tensor) -> int:
    """Labels that are not -100."""
    return int((labels != IGNORED).sum())


def logits_of(model: nn.Module, batch: Batch) -> Tensor:
    """Logits (B, …, C) in fp32, whatever the model computes in; the model does not see the labels."""
    logits: Tensor = model(**without_labels(batch)).logits
    return logits.float()
