"""Lists of different lengths as one tensor, padded on the right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from autopeft.extension import Batch, Example

IGNORED = -100  # a label that cross-entropy passes over


def padded(rows: Sequence[Sequence[int]], filler: int) -> torch.Tensor:
    """Shape (B, T) with T the longest row, int64."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[filler] * (longest - len(row))] for row in rows], dtype=torch.long)


def padded_features(examples: Sequence[Example], pad_token_id: int) -> Batch:
    """Token features (B, T): `input_ids` padded with the padding token, all others with 0."""
    fillers: Mapping[str, int] = {"input_ids": pad_token_id}
    return {name: padded([row[name] for row in examples], fillers.get(name, 0)) for name in examples[0]}


def features(batch: Batch) -> Batch:
    """What the model is called with: all but the labels."""
    return {name: value for name, value in batch.items() if name != "labels"}
