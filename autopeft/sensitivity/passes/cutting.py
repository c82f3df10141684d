"""Rows of a causal language model with fewer tokens, for a memory that holds not even one of them."""

from __future__ import annotations

import torch
from torch import Tensor

from autopeft.extension import IGNORED, Batch

_LEAST_TOKENS = 16  # that a row is cut to; chosen by hand


def row_tokens(batch: Batch) -> Tensor | None:
    """The columns of the one row of a batch up to its last label, padding left out.

    None where the batch is anything but one row of tokens with a label each.
    """
    labels, mask = batch["labels"], batch.get("attention_mask")
    tensors = [value for value in batch.values() if isinstance(value, Tensor)]
    if labels.ndim != 2 or len(labels) != 1 or any(tensor.shape != labels.shape for tensor in tensors):
        return None
    is_token = torch.ones_like(labels[0], dtype=torch.bool) if mask is None else mask[0] != 0
    (labelled,) = (labels[0] != IGNORED).nonzero(as_tuple=True)
    if len(labelled):
        is_token[int(labelled[-1]) + 1 :] = False
    return is_token.nonzero()[:, 0]


def half_of_row(batch: Batch) -> int | None:
    """Half the tokens of the one row of a batch; None where it cannot be cut, or has few tokens already."""
    columns = row_tokens(batch)
    n_tokens = 0 if columns is None else (len(columns) + 1) // 2
    return n_tokens if n_tokens >= _LEAST_TOKENS else None


def shortened(batch: Batch, n_tokens: int) -> Batch:
    """The batch with at most so many tokens of its one row: the first, and those before the last label.

    The labels of an answer are at the end. Many models attend to the first token whatever it is, and compute
    badly without it.
    """
    columns = row_tokens(batch)
    if columns is None or len(columns) <= n_tokens:
        return batch
    kept = torch.cat([columns[:1], columns[1 - n_tokens :]])
    return {name: value[:, kept] if isinstance(value, Tensor) else value for name, value in batch.items()}
