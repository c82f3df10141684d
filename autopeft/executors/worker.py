"""The base class of executors, and the function that each worker process keeps."""

from __future__ import annotations

import logging
import os
import platform
import signal
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from autopeft.errors import AutopeftError, TrainingError, first_line_of

Result = TypeVar("Result")
Function = Callable[..., Any]

# In a worker: the function that `make` returned, in a list so that it can be set.
_RESIDENT: list[Function] = []
# Signals that ask a job to end reach all of its processes; workers ignore them, and the main process acts.
_NAMES = ("SIGINT", "SIGHUP", "SIGBREAK", "SIGUSR1", "SIGUSR2")
ENDING = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))

log = logging.getLogger(__name__)


class Executor:
    """Runs measurements in workers, each of which has a base model of its own.

    A thread for each worker waits for its results. Subclasses define `_open`, `_call` and `_close`.
    """

    name = ""  # what specifications call it
    packages: tuple[str, ...] = ()  # optional packages that it imports, by their import names
    max_workers: int | None = None  # the largest `--workers`; None: any number
    shares_memory = False  # whether functions run in this process and can use its objects
    assigns_gpus = False  # whether each worker sees one GPU alone, which is then its first
    n_workers = 1  # how many functions run at the same time
    _threads: ThreadPoolExecutor | None = None
    _open: Callable[..., None]  # starts `n_workers` workers
    _call: Callable[..., Any]  # calls a function with arguments in a worker that is free

    def check(self) -> None:
        """Raise an AutopeftError if the executor cannot run here; called before anything is loaded."""

    def start(
        self, make: Callable[[int], Function], *, local: Function, n_workers: int, uses_gpu: bool
    ) -> Function:
        """Start workers; return the function to submit in place of `local`, with the same arguments.

        Each worker calls the pickled `make` once, with its index from 0, and keeps the function it returns.
        """
        self.shutdown()
        self.n_workers = n_workers
        self._open(make, uses_gpu=uses_gpu)
        self._threads = ThreadPoolExecutor(n_workers)
        return call_resident

    def submit(self, fn: Callable[..., Result], /, *args: Any) -> Future[Result]:
        """Return a future of `fn(*args)`; function, arguments and result are pickled.

        `result()` raises what `fn` raised, and WorkerLostError if a worker died a second time.
        """
        assert self._threads is not None, "the executor was not started"
        return self._threads.submit(self._call, fn, *args)

    def shutdown(self) -> None:
        """End all workers and what they run; `start` may be called again."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
        self._threads = None
        self._close()

    def _close(self) -> None:
        """End the workers, whether they work, are idle or were never started."""


def make_resident(make: Callable[[int], Function], index: int) -> None:
    """Make and keep the function of this worker process, which ignores signals; called in its main thread."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
    try:
        _RESIDENT[:] = [make(index)]
    except AutopeftError as error:  # the first call raises it; here it would only end the worker
        refusal = f"A worker process on {platform.node()} could not begin: {error}"

        def refuse(*_: Any) -> None:
            raise TrainingError(refusal)

        _RESIDENT[:] = [refuse]


def call_resident(*args: Any) -> Any:
    """Call the function of this worker process.

    Our errors become TrainingErrors, since some cannot be unpickled. A process that has lost its GPU ends.
    """
    try:
        return _RESIDENT[0](*args)
    except AutopeftError as error:
        raise TrainingError(str(error)) from None
    except RuntimeError as error:
        if not has_lost_its_gpu(error):
            raise
        log.error("A worker process has lost its GPU and ends: %s", first_line_of(error))
        os._exit(2)


def has_lost_its_gpu(error: BaseException) -> bool:
    """Whether an error, such as a failed assertion in a kernel, leaves the process unable to use its GPU."""
    torch = sys.modules.get("torch")  # not loaded: the error is not torch's
    if torch is None or not isinstance(error, torch.AcceleratorError):
        return False
    return "out of memory" not in str(error).lower()
