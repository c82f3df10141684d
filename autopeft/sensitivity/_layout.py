"""Which rows of a layer's input belong to which example, and which of them are padding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import nn

from autopeft.extension import Batch
from autopeft.records import Site

# How T5, BART and BERT call a decoder's attention to its encoder; its k and v see the encoder's tokens.
_CROSS = ("EncDecAttention", "encoder_attn", "crossattention", "cross_attn")


class Layout:
    """Brings what layers see and give into the shape (B, T, features), with zeros at padding.

    Padding is what `attention_mask` (B, T) says, for the decoder of an encoder-decoder model what
    `decoder_attention_mask` says, else every place after an example's last label. Layers that see another
    number of tokens (patches, the heads of a norm inside attention) keep all rows. What belongs to no
    example (tokens routed to an expert) is given as one example for each row, shape (N, 1, features).
    """

    def __init__(self, model: nn.Module, batch: Batch, *, weights: torch.Tensor | None = None) -> None:
        """Read the batch; `weights` (B,) multiply the gradients of its examples."""
        self._n_examples = len(batch["labels"])
        tensors = [value for value in batch.values() if isinstance(value, torch.Tensor)]
        self._lengths = {tensor.shape[1] for tensor in tensors if tensor.ndim == 2}
        self._has_decoder = bool(getattr(cast(Any, model.config), "is_encoder_decoder", False))
        self._mask = _if_any(batch.get("attention_mask"))
        self._decoder_mask = _if_any(_of_decoder(batch)) if self._has_decoder else self._mask
        self._weights = weights
        self._last: tuple[torch.Tensor, torch.Tensor | None] | None = None
        self._last_rows = torch.empty(0)

    def inputs(self, tensor: torch.Tensor, site: Site) -> torch.Tensor:
        """A layer's input as (B, T, in); the same tensor again for the next site that has the same input."""
        padding = self._padding(site)
        if self._last is None or self._last[0] is not tensor or self._last[1] is not padding:
            self._last_rows = self._rows(tensor, padding)
            self._last = (tensor, padding)
        return self._last_rows

    def gradient(self, tensor: torch.Tensor, site: Site) -> torch.Tensor:
        """The gradient of a layer's output as (B, T, out)."""
        rows = self._rows(tensor, self._padding(site))
        if self._weights is not None and len(rows) == self._n_examples:
            return rows * self._weights[:, None, None]
        return rows

    def _rows(self, tensor: torch.Tensor, padding: torch.Tensor | None) -> torch.Tensor:
        rows = self._by_example(tensor.detach()).float()
        if padding is not None and rows.shape[:2] == padding.shape:
            rows = rows.masked_fill(padding.reshape(*padding.shape, *[1] * (rows.ndim - 2)), 0.0)
        return rows.flatten(1, -2)

    def _by_example(self, tensor: torch.Tensor) -> torch.Tensor:
        n, n_features = self._n_examples, tensor.shape[-1]
        if tensor.ndim == 2:
            # OPT's feed-forward maps see (B T, in).
            is_whole = len(tensor) in {n, *(n * length for length in self._lengths)}
            return tensor.reshape(n if is_whole else len(tensor), -1, n_features)
        if len(tensor) == n:
            return tensor
        if tensor.ndim > 2 and tensor.shape[1] == n:  # XLNet's tokens come first
            return tensor.transpose(0, 1)
        is_whole = tensor.ndim > 2 and len(tensor) % n == 0  # windows of images
        return tensor.reshape(n, -1, n_features) if is_whole else tensor.reshape(-1, 1, n_features)

    def _padding(self, site: Site) -> torch.Tensor | None:
        if not self._has_decoder or "decoder" not in site.name.split("."):
            return self._mask
        is_cross = site.role in ("k", "v", "kv") and any(name in site.name for name in _CROSS)
        return self._mask if is_cross else self._decoder_mask


def _of_decoder(batch: Batch) -> torch.Tensor | None:
    """True or 1 where the decoder of an encoder-decoder model is given something, shape (B, T)."""
    given: torch.Tensor | None = batch.get("decoder_attention_mask")
    labels: torch.Tensor = batch["labels"]
    if given is not None or labels.ndim != 2:
        return batch.get("attention_mask") if given is None else given
    is_label = (labels != -100).int()
    return is_label.flip(1).cumsum(dim=1).flip(1) > 0


def _if_any(mask: torch.Tensor | None) -> torch.Tensor | None:
    """Where the padding is, shape (B, T); None where there is none."""
    if mask is None or mask.ndim != 2:
        return None
    padding = mask == 0
    return padding if bool(padding.any()) else None


def halves(batch: Mapping[str, Any]) -> tuple[Batch, Batch]:
    """The first and the second half of a batch's examples; what is no tensor of theirs goes to both."""
    n_examples = len(batch["labels"])
    cut = (n_examples + 1) // 2

    def part(rows: slice) -> Batch:
        return {
            name: value[rows] if isinstance(value, torch.Tensor) and len(value) == n_examples else value
            for name, value in batch.items()
        }

    return part(slice(0, cut)), part(slice(cut, None))
