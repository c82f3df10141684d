"""The protocol of an executor."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar, runtime_checkable

Result = TypeVar("Result")


@runtime_checkable
class Executor(Protocol):
    """A way to run measurements; speaks `concurrent.futures`."""

    name: str

    def submit(self, fn: Callable[..., Result], /, *args: Any) -> Future[Result]:
        """A future of `fn(*args)`."""

    def shutdown(self) -> None:
        """Release what the executor holds."""
