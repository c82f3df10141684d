"""The base class of executors, and the function that each worker process keeps."""

from __future__ import annotations

import os
import platform
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing import parent_process
from typing import Any, TypeVar

from autopeft.errors import AutopeftError, TrainingError, WorkerLostError

Result = TypeVar("Result")
Function = Callable[..., Any]

# Signals that reach all processes of a job; the main process acts on them, so its workers block them.
_NAMES = ("SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2")
ENDING = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))

_resident: Function  # in a worker: the function that `make` returned


class Executor:
    """Runs measurements in workers with base models of their own; a thread waits for each.

    Subclasses define `_open`, `_call` and `_close`.
    """

    name = ""  # what specifications call it
    packages: tuple[str, ...] = ()  # optional packages that it imports, by their import names
    max_workers: int | None = None  # the largest `--workers`; None: any number
    shares_memory = False  # whether functions run in this process and can use its objects
    assigns_gpus = False  # whether each worker sees one GPU alone, which is then its first
    n_workers = 1  # how many functions run at the same time
    _threads: ThreadPoolExecutor | None = None
    _open: Callable[..., None]  # starts `n_workers` workers
    _call: Callable[..., Any]  # calls a function with arguments in an idle worker

    def start(
        self, make: Callable[[int], Function], *, local: Function, n_workers: int, uses_gpu: bool
    ) -> Function:
        """Start workers, which keep what `make` returns for their index; return the function to submit."""
        self.shutdown()
        self.n_workers = n_workers
        self._open(make, uses_gpu=uses_gpu)
        self._threads = ThreadPoolExecutor(n_workers, initializer=_block_signals)
        return call_resident

    def submit(self, fn: Callable[..., Result], /, *args: Any) -> Future[Result]:
        """Return a future of `fn(*args)`, which raises WorkerLostError if a worker process ends."""
        assert self._threads is not None, "the executor was not started"
        return self._threads.submit(self._call, fn, *args)

    def shutdown(self) -> None:
        """End all workers and what they run; `start` may be called again."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
        self._threads = None
        self._close()

    def _close(self) -> None:
        """End the workers, whether they are busy, idle or were never started."""


def make_resident(make: Callable[[int], Function], index: int) -> None:
    """Make and keep the function of this worker process."""
    global _resident
    try:
        _resident = make(index)
    except AutopeftError as error:  # the first call raises it; here it would only end the worker
        refusal = f"A worker process on {platform.node()} could not start: {error}"

        def refuse(*_: Any) -> None:
            raise TrainingError(refusal)

        _resident = refuse


def call_resident(*args: Any) -> Any:
    """Call the function of this worker; its AutopeftErrors, which may not unpickle, become TrainingErrors."""
    try:
        return _resident(*args)
    except AutopeftError as error:
        raise TrainingError(str(error)) from None


def worker_lost(reason: object) -> WorkerLostError:
    """Make the error for a worker process that ended."""
    return WorkerLostError(
        f"A worker process died ({reason}); the machine may have run out of memory, or its error is above. "
        "What was measured is kept; fix the cause and continue with --resume."
    )


def end_with_parent() -> None:
    """End this process when its parent does: a worker of a killed parent would wait for work forever."""

    def wait() -> None:
        parent = parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _block_signals() -> None:
    """Block signals in a thread of the main process; the workers that it starts inherit the mask."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
