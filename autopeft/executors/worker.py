"""What an executor is, the threads that wait for its workers, and the function that a worker keeps."""

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

# In a worker: the function that its `make` gave. A pool of processes has no other place for it.
_RESIDENT: list[Function] = []

log = logging.getLogger(__name__)


class Executor:
    """Runs measurements in workers, each of which has a base model of its own.

    A thread for each worker waits for what it returns.
    """

    name = ""  # what specifications call it
    packages: tuple[str, ...] = ()  # what it imports that may be absent, under the names of the imports
    max_workers: int | None = None  # the largest `--workers` that it takes; None takes any number
    shares_memory = False  # whether functions run in this process, so that objects in memory reach them
    assigns_gpus = False  # whether it gives each worker a GPU, so that a worker's GPU is always its first
    n_workers = 1  # functions that it runs at the same time
    _threads: ThreadPoolExecutor | None = None
    _open: Callable[..., None]  # starts `n_workers` workers
    _call: Callable[..., Any]  # calls a function with arguments in a worker that is free

    def check(self) -> None:
        """Raise an AutopeftError where it cannot run here; called before anything is loaded."""

    def start(
        self, make: Callable[[int], Function], *, local: Function, n_workers: int, uses_gpu: bool
    ) -> Function:
        """Start workers; returns the function to submit in place of `local`, of the same arguments.

        `make` can be pickled. Each worker calls it once, with its index from 0, and keeps what it gives.
        """
        self.shutdown()
        self.n_workers = n_workers
        self._open(make, uses_gpu=uses_gpu)
        self._threads = ThreadPoolExecutor(n_workers)
        return call_resident

    def submit(self, fn: Callable[..., Result], /, *args: Any) -> Future[Result]:
        """A future of `fn(*args)`; function, arguments and result are pickled.

        `result()` raises what `fn` raised, and WorkerLostError where a worker died once too often.
        """
        assert self._threads is not None, "the executor was not started"
        return self._threads.submit(self._call, fn, *args)

    def shutdown(self) -> None:
        """End all workers and what they run; `start` may follow again."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
        self._threads = None
        self._close()

    def _close(self) -> None:
        """End the workers, which may work, or not have been started."""


def make_resident(make: Callable[[int], Function], index: int) -> None:
    """Make the function of this process, in its main thread.

    Signals that ask a job to end reach all of its processes, and are left to the main process.
    """
    for name in ("SIGINT", "SIGHUP", "SIGBREAK", "SIGUSR1", "SIGUSR2"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    try:
        _RESIDENT[:] = [make(index)]
    except AutopeftError as error:  # raised by the first call, since here it would only end the worker
        refusal = f"A worker process on {platform.node()} could not begin: {error}"

        def refuse(*_: Any) -> None:
            raise TrainingError(refusal)

        _RESIDENT[:] = [refuse]


def call_resident(*args: Any) -> Any:
    """Call the function of this process; errors with arguments of their own could not be unpickled.

    A process that has lost its GPU ends: it would fail at everything from then on.
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
    """Whether a kernel failed, such as by an assertion, after which a process can use its GPU no more."""
    torch = sys.modules.get("torch")  # imported by what raised its error
    if torch is None or not isinstance(error, torch.AcceleratorError):
        return False
    return "out of memory" not in str(error).lower()
