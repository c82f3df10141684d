"""The bytes that autograd holds for a backward pass, counted rather than sampled."""

from __future__ import annotations

import weakref
from collections import Counter

import torch
from torch import nn


class _Holder:
    """Wraps a saved tensor, since the end of a tensor itself cannot be watched by a weak reference."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor


class SavedBytes:
    """Counts the distinct storages that autograd holds for backward, without parameters.

    Tensors that autograd drops before the count is read (detached graphs, as in DoRA's norms) do not
    count; otherwise the sum would depend on which address the allocator gives next.
    """

    def __init__(self) -> None:
        self._sizes: dict[int, int] = {}
        self._n_holders: Counter[int] = Counter()

    @property
    def total(self) -> int:
        """Bytes held now."""
        return sum(self._sizes[pointer] for pointer, n_holders in self._n_holders.items() if n_holders)

    def counting(self) -> torch.autograd.graph.saved_tensors_hooks:
        """A context in which the tensors that autograd saves are counted."""
        return torch.autograd.graph.saved_tensors_hooks(self._pack, lambda holder: holder.tensor)

    def count(self, tensor: torch.Tensor) -> int:
        """Count a tensor that other code holds as well; returns its address."""
        # A sparse tensor has no storage itself; its indices belong to the adapter.
        storage = (tensor._values() if tensor.is_sparse else tensor).untyped_storage()
        pointer = storage.data_ptr()
        self._sizes[pointer] = storage.nbytes()
        self._n_holders[pointer] += 1
        return pointer

    def _pack(self, tensor: torch.Tensor) -> _Holder:
        holder = _Holder(tensor.detach())
        if not isinstance(tensor, nn.Parameter) and not isinstance(tensor._base, nn.Parameter):
            weakref.finalize(holder, self._n_holders.subtract, [self.count(tensor)])
        return holder
