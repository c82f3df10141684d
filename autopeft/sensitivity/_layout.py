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


class UnclearShapeError(Exception):
    """A layer's second dimension is as long as the batch, and it is not known yet which is which."""


class Layout:
    """Brings what layers see and give into the shape (B, T, features), with zeros at padding.

    An example may be several rows of the batch: of `input_ids` (B, C, T), as multiple choice has them, the
    layers see (B C, T, features), which become (B, C T, features); windows of an image likewise.
    Padding is what `attention_mask` says where it has the shape of `input_ids`, for the decoder of an
    encoder-decoder model what `decoder_attention_mask` says, else every place after an example's last label.
    Layers that see another number of tokens (patches, the heads of a norm inside attention) keep all rows.
    What belongs to no example (tokens routed to an expert) is given as one example for each row, shape
    (N, 1, features).
    """

    def __init__(
        self,
        model: nn.Module,
        batch: Batch,
        *,
        weights: torch.Tensor | None = None,
        tokens_first: frozenset[str] | None = None,
    ) -> None:
        """Read the batch.

        Args:
            model: Its config says whether there is a decoder.
            batch: With `labels` (B, …).
            weights: Factors on the gradients of the examples, shape (B,).
            tokens_first: Sites whose layers see (T, B, features); None: not known yet.
        """
        self._n_examples = len(batch["labels"])
        self._n_rows = n_rows(batch)
        tensors = [value for value in batch.values() if isinstance(value, torch.Tensor)]
        self._lengths = {tensor[0].numel() for tensor in tensors if tensor.ndim in (2, 3)}
        self._has_decoder = bool(getattr(cast(Any, model.config), "is_encoder_decoder", False))
        self._mask = _if_any(_of_encoder(batch))
        self._decoder_mask = _if_any(_of_decoder(batch)) if self._has_decoder else self._mask
        self._weights = weights
        self._tokens_first = tokens_first
        self._last: tuple[torch.Tensor, torch.Tensor | None] | None = None
        self._last_rows = torch.empty(0)

    def require_clear(self, tensor: torch.Tensor) -> None:
        """Raise UnclearShapeError where the order of a layer's dimensions matters and is not known."""
        if self._tokens_first is None and self._may_be_tokens_first(tensor):
            raise UnclearShapeError

    def inputs(self, tensor: torch.Tensor, site: Site) -> torch.Tensor:
        """A layer's input as (B, T, in); the same tensor again for the next site that has the same input."""
        padding = self._padding(site)
        if self._last is None or self._last[0] is not tensor or self._last[1] is not padding:
            self._last_rows = self._rows(tensor, site, padding)
            self._last = (tensor, padding)
        return self._last_rows

    def gradient(self, tensor: torch.Tensor, site: Site) -> torch.Tensor:
        """The gradient of a layer's output as (B, T, out)."""
        rows = self._rows(tensor, site, self._padding(site))
        if self._weights is not None and len(rows) == self._n_examples:
            return rows * self._weights[:, None, None]
        return rows

    def _rows(self, tensor: torch.Tensor, site: Site, padding: torch.Tensor | None) -> torch.Tensor:
        rows = self._by_example(tensor.detach(), site).float()
        if padding is not None and rows.shape[:2] == padding.shape:
            rows = rows.masked_fill(padding.reshape(*padding.shape, *[1] * (rows.ndim - 2)), 0.0)
        return rows.flatten(1, -2)

    def _by_example(self, tensor: torch.Tensor, site: Site) -> torch.Tensor:
        n, n_features = self._n_examples, tensor.shape[-1]
        if tensor.ndim == 2:
            # OPT's feed-forward maps see (B T, in).
            is_whole = len(tensor) in {n, self._n_rows, *(n * length for length in self._lengths)}
            return tensor.reshape(n if is_whole else len(tensor), -1, n_features)
        if self._may_be_tokens_first(tensor) and site.name in (self._tokens_first or ()):
            tensor = tensor.transpose(0, 1)
        if len(tensor) % n:
            return tensor.reshape(-1, 1, n_features)
        return tensor.reshape(n, -1, *tensor.shape[2:])

    def _may_be_tokens_first(self, tensor: torch.Tensor) -> bool:
        return tensor.ndim > 2 and tensor.shape[1] in (self._n_examples, self._n_rows)

    def _padding(self, site: Site) -> torch.Tensor | None:
        if not self._has_decoder or "decoder" not in site.name.split("."):
            return self._mask
        is_cross = site.role in ("k", "v", "kv") and any(name in site.name for name in _CROSS)
        return self._mask if is_cross else self._decoder_mask


def n_rows(batch: Batch) -> int:
    """How many rows of tokens the batch has: B, or B C for `input_ids` (B, C, T)."""
    ids: torch.Tensor | None = batch.get("input_ids")
    return len(batch["labels"]) if ids is None or ids.ndim < 2 else ids[..., 0].numel()


def _of_encoder(batch: Batch) -> torch.Tensor | None:
    """True or 1 where the model is given something, shape (B, T) or (B, C, T)."""
    mask: torch.Tensor | None = batch.get("attention_mask")
    ids: torch.Tensor | None = batch.get("input_ids")
    is_of_tokens = mask is not None and (mask.ndim == 2 if ids is None else mask.shape == ids.shape)
    return mask if is_of_tokens else None


def _of_decoder(batch: Batch) -> torch.Tensor | None:
    """True or 1 where the decoder of an encoder-decoder model is given something, shape (B, T)."""
    given: torch.Tensor | None = batch.get("decoder_attention_mask")
    labels: torch.Tensor = batch["labels"]
    if given is not None or labels.ndim != 2:
        return _of_encoder(batch) if given is None else given
    is_label = (labels != -100).int()
    return is_label.flip(1).cumsum(dim=1).flip(1) > 0


def _if_any(mask: torch.Tensor | None) -> torch.Tensor | None:
    """Where the padding is, shape (B, T) or (B, C T); None where there is none."""
    if mask is None:
        return None
    padding = mask.flatten(1) == 0
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
