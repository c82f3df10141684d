"""Process: workers that are spawned processes of this machine, each with a base model of its own."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from autopeft.errors import AutopeftError, SpecError, WorkerLostError, reason_of
from autopeft.executors.worker import ENDING, Executor, Function, Result, make_resident

_PATIENCE_SECONDS = 3.0  # for idle processes to end, so that they free their locks; chosen by hand
_SPAWNED = multiprocessing.get_context("spawn")  # a forked process could not use a GPU


class Process(Executor):
    """A pool of processes; the death of one ends the pool, and a new pool replaces it once."""

    name = "process"
    _pool: ProcessPoolExecutor | None = None
    _fault: AutopeftError | None = None  # why there will be no new pool

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def check(self) -> None:
        """Raise SpecError if the system has no locks between processes; on Linux these are in /dev/shm.

        The first lock starts Python's tracker of locks. It has the signal mask of this thread: a closed
        terminal would end it, and Python would complain of each lock.
        """
        has_masks = hasattr(signal, "pthread_sigmask")
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING) if has_masks else None
        try:
            _SPAWNED.Lock()
        except (OSError, ImportError) as error:  # ImportError: Python was built without them
            raise SpecError(
                "The executor process needs locks between processes, and the system refuses them "
                f"({reason_of(error)}); let this user write to /dev/shm, or leave the executor out."
            ) from error
        finally:
            if mask is not None:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def _open(self, make: Callable[[int], Function], *, uses_gpu: bool) -> None:
        self._make, self._is_second, self._fault = pickle.dumps(make), False, None
        self._pool = self._new_pool()

    def _call(self, fn: Callable[..., Result], *args: Any) -> Result:
        """Run `fn(*args)` in a process; if the pool breaks meanwhile, run it again in the new pool."""
        # A worker has the mask of the thread that starts it: Ctrl-C would end its imports in a traceback.
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        while pool := self._pool:
            try:
                return pool.submit(fn, *args).result()
            except BrokenProcessPool:
                with self._lock:
                    if pool is self._pool:  # no other thread has replaced it
                        self._replace(pool)
        raise WorkerLostError("The workers were ended.")

    def _close(self) -> None:
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            _end(pool)

    def _new_pool(self) -> ProcessPoolExecutor:
        self._n_begun = _SPAWNED.Value("i", 0)
        arguments = (self._make, self._n_begun)
        return ProcessPoolExecutor(self.n_workers, _SPAWNED, initializer=_begin, initargs=arguments)

    def _replace(self, pool: ProcessPoolExecutor) -> None:
        """Replace a broken pool by a new one, or raise and keep the reason why there is none."""
        if self._fault is None:
            exit_codes = _end(pool)
            if 1 in exit_codes and self._n_begun.value == 0:  # Python's exit code for an error in the script
                self._fault = SpecError(
                    "A worker process ended while it imported the script that started the search; its error "
                    'is above. Put the script\'s call of autopeft.search under: if __name__ == "__main__":'
                )
            elif self._is_second:
                self._fault = WorkerLostError(
                    "A worker process died, a second time in this search; the machine may have run out of "
                    "memory. What was measured is kept; mend the cause and continue with --resume."
                )
        if self._fault is not None:
            raise self._fault
        self._pool, self._is_second = self._new_pool(), True


def _end(pool: ProcessPoolExecutor) -> list[int | None]:
    """End the processes of a pool, by force if they still work; return their exit codes."""
    processes = pool._processes or {}  # read now, since the shutdown clears it
    pool.shutdown(wait=False, cancel_futures=True)
    deadline = time.monotonic() + _PATIENCE_SECONDS
    for process in list(processes.values()):
        process.join(max(0.0, deadline - time.monotonic()))
        process.kill()
        process.join()
        while process.exitcode is None and time.monotonic() < deadline:
            time.sleep(0.01)  # the pool's own thread may collect the exit code instead
    return [process.exitcode for process in processes.values()]


def _begin(pickled: bytes, n_begun: Any) -> None:
    """Prepare a worker; its index is the number of workers that began before it.

    The function that makes its work comes pickled: unpickling imports for seconds, and the parent may die.
    """

    def end_with_parent() -> None:  # a worker of a killed parent would wait for work forever
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it would warn again
    make = pickle.loads(pickled)
    with n_begun.get_lock():
        index = n_begun.value
        n_begun.value += 1
    make_resident(make, index)
