"""How many bytes autograd holds for a backward pass, counted rather than sampled."""

from __future__ import annotations

import weakref
from collections import Counter

import torch
from torch import nn


class _Held:
    """A saved tensor, in an object whose end can be watched."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor


class SavedBytes:
    """Counts the distinct storages that are held for backward, parameters apart.

    What autograd lets go of before the count is read (graphs that are detached, as in DoRA's
    norms) does not count; otherwise the sum would hang on which address the allocator gives next.
    """

    def __init__(self) -> None:
        self._sizes: dict[int, int] = {}
        self._n_holders: Counter[int] = Counter()

    @property
    def total(self) -> int:
        """Bytes held now."""
        return sum(self._sizes[pointer] for pointer, n_holders in self._n_holders.items() if n_holders)

    def counting(self) -> torch.autograd.graph.saved_tensors_hooks:
        """A context in which what autograd saves is counted."""
        return torch.autograd.graph.saved_tensors_hooks(self._pack, lambda held: held.tensor)

    def count(self, tensor: torch.Tensor) -> int:
        """Count a tensor that something else than autograd holds as well; gives its address."""
        storage = tensor.untyped_storage()
        pointer = storage.data_ptr()
        self._sizes[pointer] = storage.nbytes()
        self._n_holders[pointer] += 1
        return pointer

    def _pack(self, tensor: torch.Tensor) -> _Held:
        held = _Held(tensor.detach())
        if not isinstance(tensor, nn.Parameter) and not isinstance(tensor._base, nn.Parameter):
            weakref.finalize(held, self._n_holders.subtract, [self.count(tensor)])
        return held
