"""Which rows of a layer's input belong to which example, and how a batch is made smaller."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from autopeft.plugins import IGNORED, Batch, Task
from autopeft.types import Target

# Names of a decoder's attention to its encoder in T5, BART and BERT; its k and v see the encoder's tokens.
_CROSS_ATTENTION = ("EncDecAttention", "encoder_attn", "crossattention", "cross_attn")
_LEAST_TOKENS = 16  # that a row is cut to; chosen by hand


class Layout:
    """Reshapes the inputs and output gradients of layers to (B, T, features), with zeros at padding.

    An example may be several rows of the batch: with `input_ids` (B, C, T), as in multiple choice, layers see
    (B C, T, features), which become (B, C T, features); windows of an image likewise. Layers that see another
    number of tokens than the batch has (patches, heads of a norm inside attention) have no padding. Rows that
    belong to no example (tokens routed to an expert) become one example each, shape (N, 1, features).

    Padding is where `attention_mask`, of the shape of `input_ids`, is 0. For the decoder of an
    encoder-decoder model it is where `decoder_attention_mask` is 0, else all after an example's last label.
    Gradients of examples are multiplied by their `weights` (B,).
    """

    def __init__(self, config: Any, batch: Batch, *, weights: Tensor | None) -> None:
        self._n_examples = len(batch["labels"])
        self._n_rows = n_rows(batch)
        tensors = [value for value in batch.values() if isinstance(value, Tensor)]
        self._lengths = {tensor[0].numel() for tensor in tensors if tensor.ndim in (2, 3)}
        self._has_decoder = bool(getattr(config, "is_encoder_decoder", False))
        self._padding = _padding(_encoder_mask(batch))
        self._decoder_padding = _padding(_decoder_mask(batch)) if self._has_decoder else self._padding
        self._weights = weights
        self._last: tuple[Tensor, Tensor | None, Tensor] | None = None  # input, padding, rows

    def inputs(self, tensor: Tensor, target: Target) -> Tensor:
        """A layer's input as (B, T, in); the same tensor again for the next target with the same input."""
        padding = self._padding_at(target)
        if self._last is None or self._last[0] is not tensor or self._last[1] is not padding:
            self._last = tensor, padding, self._rows(tensor, padding)
        return self._last[2]

    def gradient(self, tensor: Tensor, target: Target) -> Tensor:
        """The gradient of a layer's output as (B, T, out)."""
        rows = self._rows(tensor, self._padding_at(target))
        if self._weights is not None and len(rows) == self._n_examples:
            return rows * self._weights.to(rows.device)[:, None, None]
        return rows

    def _rows(self, tensor: Tensor, padding: Tensor | None) -> Tensor:
        rows = self._by_example(tensor.detach()).float()
        if padding is not None and rows.shape[:2] == padding.shape:
            shape = (*padding.shape, *[1] * (rows.ndim - 2))
            rows = rows.masked_fill(padding.to(rows.device).reshape(shape), 0.0)
        return rows.flatten(1, -2)

    def _by_example(self, tensor: Tensor) -> Tensor:
        n, n_features = self._n_examples, tensor.shape[-1]
        if tensor.ndim == 2:
            # OPT's feed-forward maps see (B T, in).
            is_whole = len(tensor) in {n, self._n_rows, *(n * length for length in self._lengths)}
            return tensor.reshape(n if is_whole else len(tensor), -1, n_features)
        if len(tensor) % n:
            return tensor.reshape(-1, 1, n_features)
        return tensor.reshape(n, -1, *tensor.shape[2:])

    def _padding_at(self, target: Target) -> Tensor | None:
        if not self._has_decoder or "decoder" not in target.name.split("."):
            return self._padding
        is_cross = target.role in ("k", "v", "kv") and any(name in target.name for name in _CROSS_ATTENTION)
        return self._padding if is_cross else self._decoder_padding


def n_rows(batch: Batch) -> int:
    """Rows of tokens in the batch: B, or B C for `input_ids` (B, C, T)."""
    ids: Tensor | None = batch.get("input_ids")
    return len(batch["labels"]) if ids is None or ids.ndim < 2 else ids[..., 0].numel()


def _encoder_mask(batch: Batch) -> Tensor | None:
    """Non-zero at the tokens that the model sees, shape (B, T) or (B, C, T)."""
    mask: Tensor | None = batch.get("attention_mask")
    ids: Tensor | None = batch.get("input_ids")
    is_of_tokens = mask is not None and (mask.ndim == 2 if ids is None else mask.shape == ids.shape)
    return mask if is_of_tokens else None


def _decoder_mask(batch: Batch) -> Tensor | None:
    """Non-zero at the tokens that the decoder sees, shape (B, T)."""
    mask: Tensor | None = batch.get("decoder_attention_mask")
    labels: Tensor = batch["labels"]
    if mask is not None:
        return mask
    if labels.ndim != 2:
        return _encoder_mask(batch)
    is_label = (labels != IGNORED).int()
    return is_label.flip(1).cumsum(dim=1).flip(1) > 0


def _padding(mask: Tensor | None) -> Tensor | None:
    """Return True at padding, shape (B, T) or (B, C T); None without a mask or without padding."""
    if mask is None:
        return None
    padding = mask.flatten(1) == 0
    return padding if bool(padding.any()) else None


def split_in_half(batch: Mapping[str, Any]) -> tuple[Batch, Batch]:
    """Split a batch's examples into halves; values that are not one per example go to both."""
    n_examples = len(batch["labels"])
    cut = (n_examples + 1) // 2

    def part(rows: slice) -> Batch:
        return {
            name: value[rows] if isinstance(value, Tensor) and len(value) == n_examples else value
            for name, value in batch.items()
        }

    return part(slice(0, cut)), part(slice(cut, None))


def row_tokens(batch: Batch) -> Tensor | None:
    """Return the columns of a batch's only row up to its last label, without padding.

    None if the batch is anything but one row of tokens with a label each.
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
    """Return half the number of tokens of a batch's only row; None if it cannot be cut, or is too short."""
    columns = row_tokens(batch)
    n_tokens = 0 if columns is None else (len(columns) + 1) // 2
    return n_tokens if n_tokens >= _LEAST_TOKENS else None


def shortened(batch: Batch, n_tokens: int) -> Batch:
    """Cut a batch's only row to so many tokens: its first one, and the last ones up to the last label.

    The labels of an answer are at the end. Many models attend to the first token whatever it is, and compute
    badly without it.
    """
    columns = row_tokens(batch)
    if columns is None or len(columns) <= n_tokens:
        return batch
    kept = torch.cat([columns[:1], columns[1 - n_tokens :]])
    return {name: value[:, kept] if isinstance(value, Tensor) else value for name, value in batch.items()}


def example_weights(batch: Batch, task: Task) -> Tensor | None:
    """Return factors (B,) on the examples' gradients if the loss is a mean over tokens; None if all are 1.

    Such a loss is the mean over all labelled tokens of the batch. Each factor turns an example's share of it
    into the loss that the example would have alone: the mean over its own labelled tokens.
    """
    labels = batch["labels"]
    if labels.ndim != 2 or labels.is_floating_point():
        return None
    predicted = labels[:, 1:] if task.peft_task_type == "CAUSAL_LM" else labels
    n_tokens = (predicted != IGNORED).sum(dim=1)
    if bool((n_tokens == n_tokens[0]).all()):
        return None
    mean = n_tokens.sum() / len(labels)
    return torch.where(n_tokens > 0, mean / n_tokens.clamp(min=1), 0.0)
