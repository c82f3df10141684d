"""Calls from several threads of a process, which take turns."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator

import torch

from autopeft.model.devices import has_used_gpus

log = logging.getLogger(__name__)

# torch has one random number generator for all threads, transformers one verbosity and one table of attention
# functions, and peft changes modules in place: a second search would change the numbers of the first.
_LOCK = threading.RLock()
_SLICE_SECONDS = 0.5  # chosen by hand


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """A context, or decorator, that one thread of the process enters at a time; the others wait.

    A thread that is inside may enter again. A signal ends the waiting of the main thread: the wait is cut
    into slices, since a signal that arrives just before it, and on Windows any, is heard only between them.
    """
    if not _LOCK.acquire(blocking=False):
        log.warning("Another thread of this process is in a call of autopeft; this call waits for its end.")
        while not _LOCK.acquire(timeout=_SLICE_SECONDS):
            pass
    try:
        with _gpus_as_before():
            yield
    finally:
        _LOCK.release()


@contextlib.contextmanager
def _gpus_as_before() -> Iterator[None]:
    """A context after which the process has the current GPU of before, and may use as much of each GPU."""
    before = torch.cuda.current_device() if has_used_gpus() else 0
    shares = _memory_shares()
    try:
        yield
    finally:
        if has_used_gpus() and torch.cuda.current_device() != before:
            torch.cuda.set_device(before)
        for index, share in _memory_shares().items():
            if share != shares.get(index, 1.0):
                torch.cuda.set_per_process_memory_fraction(shares.get(index, 1.0), index)


def _memory_shares() -> dict[int, float]:
    """The share of each GPU's memory that torch lets this process have; empty where none was used yet."""
    n_gpus = torch.cuda.device_count() if has_used_gpus() else 0
    return {index: torch.cuda.get_per_process_memory_fraction(index) for index in range(n_gpus)}
