"""Process: resident workers, each a spawned process that keeps a base model of its own."""

from __future__ import annotations

from collections.abc import Callable

from autopeft.executors.parts import ProcessWorker, WorkerPool, require_locks
from autopeft.extension import Function


class _Machine:
    """This machine, on which processes need no preparation."""

    def check(self) -> None:
        """Raise SpecError where the system has no locks between processes."""
        require_locks()

    def open(self, n_workers: int, *, uses_gpu: bool) -> None:
        """Do nothing."""

    def worker(self, make: Callable[[int], Function] | None, index: int) -> ProcessWorker:
        """A process that has been started."""
        return ProcessWorker(make, index)

    def close(self) -> None:
        """Do nothing."""


def process_pool() -> WorkerPool:
    """An executor of worker processes; no process runs before it is used."""
    return WorkerPool("process", _Machine())


PART = process_pool()
