"""Which rows of a layer's input belong to which example, and how a batch is halved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from autopeft.plugins import IGNORED, Batch, Task


class Layout:
    """Reshapes the inputs and output gradients of layers to (B, T, features), in float32.

    An example may be several rows of the batch, such as windows of an image: layers see (B C, T, features),
    which become (B, C T, features). Rows that belong to no example (tokens routed to an expert) become one
    example each, shape (N, 1, features).

    Padding needs no mask: the loss does not depend on it, so its gradients are 0.
    """

    def __init__(self, batch: Batch, task: Task) -> None:
        self._n_examples = n = len(batch["labels"])
        values = [value for value in batch.values() if isinstance(value, Tensor)]
        # Lengths of a layer's input (N, features) that holds every example: some layers see (B T, features).
        self._whole_lengths = {n, *(v.numel() for v in values if v.ndim in (2, 3))}
        self._weights = _example_weights(batch, task)

    def inputs(self, tensor: Tensor) -> Tensor:
        """Reshape a layer's input to (B, T, in)."""
        n_rows = len(tensor)
        is_whole = n_rows in self._whole_lengths if tensor.ndim == 2 else n_rows % self._n_examples == 0
        shape = (self._n_examples, -1) if is_whole else (-1, 1)
        return tensor.detach().reshape(*shape, tensor.shape[-1]).float()

    def gradient(self, tensor: Tensor) -> Tensor:
        """Reshape the gradient of a layer's output to (B, T, out), as of the examples' own mean losses."""
        rows = self.inputs(tensor)
        if self._weights is not None and len(rows) == self._n_examples:
            return rows * self._weights.to(rows.device)[:, None, None]
        return rows


def _example_weights(batch: Batch, task: Task) -> Tensor | None:
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


def split_in_half(batch: Mapping[str, Any]) -> tuple[Batch, Batch]:
    """Split a batch's examples into halves; values that are not one per example are in both."""
    n_examples = len(batch["labels"])
    middle = (n_examples + 1) // 2

    def half(rows: slice) -> Batch:
        return {
            name: value[rows] if isinstance(value, Tensor) and len(value) == n_examples else value
            for name, value in batch.items()
        }

    return half(slice(0, middle)), half(slice(middle, None))
