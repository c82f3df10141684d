"""Serial: one measurement after the other in this process, errors with their traceback."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from autopeft.errors import TrainingError, first_line_of
from autopeft.executors.parts import has_lost_its_gpu
from autopeft.extension import Function

Result = TypeVar("Result")


class Serial:
    """Runs a function when it is submitted; debuggers can step into it."""

    name = "serial"
    max_workers: int | None = 1
    n_workers = 1
    shares_memory = True
    assigns_gpus = False
    packages: tuple[str, ...] = ()

    def check(self) -> None:
        """Do nothing: this process can always measure."""

    def start(
        self, make: Callable[[int], Function], *, local: Function, n_workers: int, uses_gpu: bool
    ) -> Function:
        """`local` itself: there is no worker to make a function for."""
        return local

    def submit(self, fn: Callable[..., Result], /, *args: Any) -> Future[Result]:
        """A finished future of `fn(*args)`; an exception comes out of `result()`."""
        future: Future[Result] = Future()
        try:
            future.set_result(fn(*args))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            future.set_exception(_lost_gpu(error) if has_lost_its_gpu(error) else error)
        return future

    def shutdown(self) -> None:
        """Do nothing: nothing runs, and there are no resources to release."""


def _lost_gpu(error: BaseException) -> TrainingError:
    failure = TrainingError(
        f"A run broke the GPU for this process ({first_line_of(error)}); continue with --resume and "
        "--executor process, which replaces a process that has lost its GPU."
    )
    failure.__cause__ = error
    return failure


PART = Serial()
