"""Adds up the storages that are alive while torch computes, of real or fake tensors."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LivingBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A context that counts the bytes of every storage from its first use until it is freed.

    What a kernel takes for itself and gives back before it returns is not seen. On a GPU the allocator rounds
    each storage up to 512 bytes, and keeps freed blocks in reserve; neither is counted.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0  # bytes alive
        self.peak = 0  # most bytes alive at once
        self._alive: set[int] = set()

    def watch(self, tensors: Iterable[torch.Tensor]) -> int:
        """Count tensors that exist already; returns their bytes, each storage once."""
        before = self.now
        for tensor in tensors:
            self._add(tensor)
        return self.now - before

    def forget_peak(self) -> None:
        """Start the peak anew at what is alive now."""
        self.peak = self.now

    def _add(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._alive:
            n_bytes = storage.nbytes()
            self._alive.add(key)
            self.now += n_bytes
            self.peak = max(self.peak, self.now)
            # Torch keeps a storage's Python object for as long as the storage lives, whoever holds it.
            weakref.finalize(storage, self._drop, key, n_bytes)

    def _drop(self, key: int, n_bytes: int) -> None:
        self._alive.discard(key)
        self.now -= n_bytes

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation, and count the storages of its results."""
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._add(leaf)
        return result
