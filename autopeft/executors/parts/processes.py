"""A worker that is a spawned process of this machine.

The worker is a pool of one process. `concurrent.futures` starts it, passes it work, and notices its death;
in a pool of several processes the death of one would end them all. The process ends with this one, even if
this one is killed.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing.process import BaseProcess
from typing import Any

from autopeft.errors import AutopeftError, SpecError, reason_of
from autopeft.executors.parts.resident import make_resident
from autopeft.extension import Function

_EXIT_SECONDS = 2.0  # from the end of a process to its exit code; chosen by hand
_SPAWNED = multiprocessing.get_context("spawn")  # a forked process could not use a GPU

# In a worker, where libraries would warn once more: here, since it unpickles its work before it begins.
if multiprocessing.current_process().name != "MainProcess":
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


class ProcessWorker:
    """One process, which is replaced by `start`."""

    def __init__(self, make: Callable[[int], Function] | None, index: int) -> None:
        self._make, self._index = make, index
        self._processes: list[BaseProcess] = []
        self.start()

    def start(self) -> None:
        """Start a process; it makes its function before it takes work. An earlier one ends, if it has not."""
        self.end(time.monotonic())  # its pool notices, and may hold a lock that `close` would wait for
        arguments = (self._make, self._index)
        self._pool = ProcessPoolExecutor(1, mp_context=_SPAWNED, initializer=_begin, initargs=arguments)
        before = multiprocessing.active_children()
        self._first = self._pool.submit(int)  # the process starts with its first work
        self._processes = [child for child in multiprocessing.active_children() if child not in before]

    def ready(self) -> None:
        """None: its process begins at once."""

    def submit(self, fn: Function, *args: Any) -> Future[Any]:
        """A future of `fn(*args)`; BrokenExecutor where the process has died."""
        return self._pool.submit(fn, *args)

    def fault(self) -> AutopeftError | None:
        """That the process failed at the script that it imports; None where it began, or was killed.

        Python ends with 1 there, before any work. A process that begins catches the errors of its work.
        """
        if self._first.done() and self._first.exception() is None:
            return None
        for process in self._processes:
            process.join(_EXIT_SECONDS)
            if process.exitcode == 1:
                return SpecError(
                    "A worker process ended while it imported the script that started the search; its error "
                    'is above. Put the script\'s call of autopeft.search under: if __name__ == "__main__":'
                )
        return None

    def close(self) -> None:
        """Let the process end once it is idle, so that it frees its locks."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def end(self, deadline: float) -> None:
        """Wait for the process to end; end it by force at the deadline."""
        for process in self._processes:
            process.join(max(0.0, deadline - time.monotonic()))
            process.kill()
            process.join()


def require_locks() -> None:
    """Raise SpecError where the system has no locks between processes: they lie in /dev/shm on Linux."""
    try:
        _SPAWNED.Lock()
    except (OSError, ImportError) as error:  # the second where Python was built without them
        raise SpecError(
            "The executor process needs locks between processes, and the system refuses them "
            f"({reason_of(error)}); let this user write to /dev/shm, or leave the executor out."
        ) from error


def _begin(make: Callable[[int], Function] | None, index: int) -> None:
    """Prepare a worker."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    make_resident(make, index)


def _end_with_parent() -> None:
    """End this process once its parent has: a worker of a killed parent would wait for work forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
