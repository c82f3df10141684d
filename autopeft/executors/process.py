"""Process: workers that are spawned processes of this machine, each with its own base model."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from autopeft.errors import reason_of
from autopeft.executors.worker import Executor, Function, Result, end_with_parent, make_resident, worker_lost

_PATIENCE_SECONDS = 3.0  # for idle processes to end and free their locks; heuristic
_SPAWNED = multiprocessing.get_context("spawn")  # a forked process could not use a GPU


class Process(Executor):
    """A pool of processes; the death of one ends the search."""

    name = "process"
    _pool: ProcessPoolExecutor | None = None

    def _open(self, make: Callable[[int], Function], *, uses_gpu: bool) -> None:
        arguments = (make, _SPAWNED.Value("i", 0))
        self._pool = ProcessPoolExecutor(self.n_workers, _SPAWNED, initializer=_begin, initargs=arguments)

    def _call(self, fn: Callable[..., Result], *args: Any) -> Result:
        assert self._pool is not None
        try:
            return self._pool.submit(fn, *args).result()
        except BrokenProcessPool as error:
            raise worker_lost(reason_of(error)) from error

    def _close(self) -> None:
        """End the processes, by force if they are busy."""
        if self._pool is None:
            return
        processes = list((self._pool._processes or {}).values())  # the shutdown forgets them
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._pool = None
        deadline = time.monotonic() + _PATIENCE_SECONDS
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
            process.kill()
            process.join()


def _begin(make: Callable[[int], Function], n_begun: Any) -> None:
    """Prepare a worker; its index is the number of workers that started before it."""
    end_with_parent()
    with n_begun.get_lock():
        index = n_begun.value
        n_begun.value += 1
    make_resident(make, index)
