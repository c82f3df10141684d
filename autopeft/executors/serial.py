"""Serial: one measurement after the other in this process; errors keep their traceback."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from autopeft.executors.worker import Executor, Function, Result, require_gpu_after


class Serial(Executor):
    """Runs a function when it is submitted; debuggers can step into it."""

    name = "serial"
    max_workers = 1
    shares_memory = True

    def start(
        self, make: Callable[[int], Function], *, local: Function, n_workers: int, uses_gpu: bool
    ) -> Function:
        """Return `local` itself, since there are no workers."""
        return local

    def submit(self, fn: Callable[..., Result], /, *args: Any) -> Future[Result]:
        """Return a finished future of `fn(*args)`; Ctrl-C and the loss of the GPU are raised at once."""
        future: Future[Result] = Future()
        try:
            future.set_result(fn(*args))
        except Exception as error:
            require_gpu_after(error)
            future.set_exception(error)
        return future
