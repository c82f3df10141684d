"""Serial: one measurement after the other in this process."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from autopeft.executors.worker import Executor, Function, Result


class Serial(Executor):
    """Runs a function when it is submitted; debuggers can step into it, and errors keep their traceback."""

    name = "serial"
    max_workers = 1
    shares_memory = True

    def start(
        self, make: Callable[[int], Function], *, local: Function, n_workers: int, uses_gpu: bool
    ) -> Function:
        """Return `local` itself, since there are no workers."""
        return local

    def submit(self, fn: Callable[..., Result], /, *args: Any) -> Future[Result]:
        """Return a finished future of `fn(*args)`; its exception is raised here."""
        future: Future[Result] = Future()
        future.set_result(fn(*args))
        return future
