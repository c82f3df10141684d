"""The protocol of an executor."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar, runtime_checkable

Result = TypeVar("Result")


@runtime_checkable
class Executor(Protocol):
    """A way to run measurements, with the futures of `concurrent.futures`.

    Measurements share one base model in memory: an executor that runs several at once has to give each a
    model of its own.
    """

    name: str  # what specifications call it, such as `serial`
    max_workers: int | None  # the largest `--workers` that it takes; None takes any number
    n_workers: int  # functions that it runs at the same time

    def submit(self, fn: Callable[..., Result], /, *args: Any) -> Future[Result]:
        """A future of `fn(*args)`; `result()` raises what `fn` raised."""

    def shutdown(self) -> None:
        """Wait for what runs, and release threads, processes and connections; `submit` may follow again."""
