"""The protocol of an executor."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar, runtime_checkable

Result = TypeVar("Result")
Function = Callable[..., Any]


@runtime_checkable
class Executor(Protocol):
    """A way to run measurements, with the futures of `concurrent.futures`.

    Measurements share one base model in memory: an executor that runs several at once has to give each a
    model of its own, which `start` does.
    """

    name: str  # what specifications call it, such as `serial`
    max_workers: int | None  # the largest `--workers` that it takes; None takes any number
    n_workers: int  # functions that it runs at the same time
    shares_memory: bool  # whether functions run in this process, so that objects in memory reach them
    assigns_gpus: bool  # whether it gives each worker a GPU, so that a worker's GPU is always its first
    packages: tuple[str, ...]  # what it imports that may be absent, under the names of the imports

    def check(self) -> None:
        """Raise an AutopeftError where it cannot run here; called before anything is loaded.

        All of `packages` are there.
        """

    def start(
        self, make: Callable[[int], Function], *, local: Function, n_workers: int, uses_gpu: bool
    ) -> Function:
        """Start workers; returns the function to submit in place of `local`, of the same arguments.

        `make` can be pickled. It is called once in each worker, with the worker's index from 0, and gives the
        function that runs there. An executor without workers returns `local`.
        """

    def submit(self, fn: Callable[..., Result], /, *args: Any) -> Future[Result]:
        """A future of `fn(*args)`; `result()` raises what `fn` raised.

        It raises WorkerLostError where the worker ended, and a second one too.
        """

    def shutdown(self) -> None:
        """End what runs, and release threads, processes and connections; `submit` may follow again."""
