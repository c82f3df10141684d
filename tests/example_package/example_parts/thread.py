"""An executor: measurements one after the other in a thread beside the search."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

Result = TypeVar("Result")
Function = Callable[..., Any]


class Thread:
    """One thread, as measurements share the base model; the pool lives from the first submit to shutdown."""

    name = "thread"
    max_workers: int | None = 1
    n_workers = 1
    shares_memory = True
    assigns_gpus = False
    packages: tuple[str, ...] = ()

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None

    def check(self) -> None:
        pass

    def start(
        self, make: Callable[[int], Function], *, local: Function, n_workers: int, uses_gpu: bool
    ) -> Function:
        return local

    def submit(self, fn: Callable[..., Result], /, *args: Any) -> Future[Result]:
        self._pool = self._pool or ThreadPoolExecutor(max_workers=1, thread_name_prefix="measure")
        return self._pool.submit(fn, *args)

    def shutdown(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()
        self._pool = None


PART = Thread()
