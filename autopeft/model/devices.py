"""Where devices differ: numbers in float64, the random generator that draws on them, and their memory."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import re
import sys
import time
import weakref
from collections import Counter
from dataclasses import dataclass

import psutil
import torch
from torch import nn

from autopeft.containers import left_bytes

_WITH_GENERATOR = ("cuda", "mps")  # devices that draw by a generator of their own, not by the CPU's

_MESSAGE = re.compile(
    # cuBLAS is not initialised, and cuFFT fails to allocate, where the GPU has no room for their work.
    r"out of memory|can't allocate memory|not enough memory|_ALLOC_FAILED|NOT_INITIALIZED.*cublasCreate",
    re.IGNORECASE | re.DOTALL,
)

# glibc keeps what is freed between two blocks in use. On a model of a billion weights, whose micro-batches
# have many lengths, the process grew by 0.7 GB so. Freed pages must be made again, hence the pause; by hand.
_TRIM = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
_TRIM_SECONDS = 5.0


def on_float64_device(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, or its copy on the CPU where the device has no float64, as Apple's GPUs."""
    return tensor.cpu() if tensor.device.type == "mps" else tensor


def to_float64(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in float64, on the CPU where its device has none."""
    return on_float64_device(tensor).double()


def has_used_gpus() -> bool:
    """Whether this process has begun to use GPUs of NVIDIA or AMD."""
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


def forked_rng(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """A context after which the generators of the CPU and of a device are in the state of before."""
    if device.type in _WITH_GENERATOR:
        return torch.random.fork_rng(devices=[device], device_type=device.type)
    return torch.random.fork_rng(devices=[])


def has_own_generator(device: torch.device) -> bool:
    """Whether random numbers on a device are drawn by a generator of its own."""
    return device.type in _WITH_GENERATOR


def random_state(device: torch.device) -> torch.Tensor:
    """The state of the generator that draws on a device, as bytes on the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_rng_state(device)
    return torch.mps.get_rng_state() if device.type == "mps" else torch.random.get_rng_state()


def set_random_state(device: torch.device, state: torch.Tensor) -> None:
    """Set the generator that draws on a device to a state of `random_state`."""
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    elif device.type == "mps":
        torch.mps.set_rng_state(state)
    else:
        torch.random.set_rng_state(state)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the memory of a device ran out; torch has no type of its own for a CPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and _MESSAGE.search(str(error)) is not None


def release_memory(device: torch.device) -> None:
    """Give back what a failed run has left behind; its error must be gone, since it holds the tensors."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


@dataclass
class FreedMemory:
    """Memory that training has freed, and that the C library would keep for the process; on a CPU only."""

    device: torch.device
    _next: float = 0.0

    def give_back(self) -> None:
        """Give the freed memory to the system, every five seconds at most."""
        if self.device.type == "cpu" and _TRIM is not None and time.monotonic() >= self._next:
            _TRIM(0)
            self._next = time.monotonic() + _TRIM_SECONDS


def taken_bytes(device: torch.device) -> int:
    """Bytes of a device that this process has taken; on a CPU its libraries count too."""
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    if device.type == "mps":
        return int(torch.mps.current_allocated_memory())
    return int(psutil.Process().memory_info().rss)


def limit_memory(device: torch.device, limit_bytes: int) -> None:
    """Let torch refuse this process more than `limit_bytes` of a GPU; a lower limit of before stays.

    On other devices nothing refuses it, and the limit is for plans alone.
    """
    if device.type == "cuda":
        share = limit_bytes / torch.cuda.get_device_properties(device).total_memory
        before = torch.cuda.get_per_process_memory_fraction(device)
        torch.cuda.set_per_process_memory_fraction(min(share, before), device)


def free_bytes(device: torch.device, *, limit_bytes: int | None = None) -> int:
    """Bytes that can still be taken on a device, of `limit_bytes` in all where there is a limit; >= 0.

    On a GPU the limit of `limit_memory` counts in any case.
    """
    taken = taken_bytes(device)
    if device.type == "cuda":
        available, total = torch.cuda.mem_get_info(device)
        allowed = int(torch.cuda.get_per_process_memory_fraction(device) * total)
        # What torch has reserved and does not use counts as free.
        free = min(available + torch.cuda.memory_reserved(device), allowed) - taken
    elif device.type == "mps":
        # Of the memory that all programs share; what torch has reserved and does not use counts as free.
        available = _available_bytes() + torch.mps.driver_allocated_memory() - taken
        free = min(available, torch.mps.recommended_max_memory() - taken)
    else:
        free = min(_available_bytes(), left_bytes())
    return max(0, free if limit_bytes is None else min(free, limit_bytes - taken))


def _available_bytes() -> int:
    """What the machine can give to new tensors; the kernel gives up file caches for them."""
    return int(psutil.virtual_memory().available)


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
