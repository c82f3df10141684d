"""The protocol of an executor."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar, runtime_checkable

Result = TypeVar("Result")


@runtime_checkable
class Executor(Protocol):
    """A way to run measurements, with the futures of `concurrent.futures`.

    `name` is what specifications call it, such as `serial`. Measurements share one base model in memory: an
    executor that runs several at once has to give each a model of its own. `max_workers` is the largest
    `--workers` that the executor takes; None takes any number.
    """

    name: str
    max_workers: int | None

    def submit(self, fn: Callable[..., Result], /, *args: Any) -> Future[Result]:
        """A future of `fn(*args)`; `result()` raises what `fn` raised."""

    def shutdown(self) -> None:
        """Wait for what runs, and release threads, processes and connections; `submit` may follow again."""
