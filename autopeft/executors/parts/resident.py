"""The function that a worker makes once and keeps, with the base model that it holds."""

from __future__ import annotations

import platform
import signal
import sys
from collections.abc import Callable
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass
from typing import Any

from autopeft.errors import AutopeftError, TrainingError, first_line_of
from autopeft.extension import Function

_RESIDENT: list[Function] = []  # in a worker: the function that its `make` gave


def make_resident(make: Callable[[int], Function] | None, index: int) -> None:
    """Make the function of this process, in its main thread.

    Signals that ask a job to end reach all of its processes, and are left to the main process.
    """
    for name in ("SIGINT", "SIGHUP", "SIGBREAK", "SIGUSR1", "SIGUSR2"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if make is None:
        return
    try:
        _RESIDENT[:] = [make(index)]
    except AutopeftError as error:  # raised by the first call, since here it would only end the worker
        _RESIDENT[:] = [_Refusal(str(error))]


def call_resident(*args: Any) -> Any:
    """Call the function of this process; errors with arguments of their own could not be unpickled.

    Raises BrokenExecutor where the process has lost its GPU, as if it had died: it fails at everything then.
    """
    try:
        return _RESIDENT[0](*args)
    except AutopeftError as error:
        raise TrainingError(str(error)) from None
    except RuntimeError as error:
        if not has_lost_its_gpu(error):
            raise
        raise BrokenExecutor(first_line_of(error)) from None


def has_lost_its_gpu(error: BaseException) -> bool:
    """Whether a kernel failed, such as by an assertion, after which a process can use its GPU no more."""
    torch = sys.modules.get("torch")  # imported by what raised its error
    if torch is None or not isinstance(error, torch.AcceleratorError):
        return False
    return "out of memory" not in str(error).lower()


def refusal() -> str | None:
    """Why this process could not make its function; None where it could."""
    resident = _RESIDENT[0] if _RESIDENT else None
    return resident.message if isinstance(resident, _Refusal) else None


@dataclass(frozen=True)
class _Refusal:
    """Stands for a function that could not be made."""

    message: str

    def __call__(self, *_: Any) -> None:
        raise TrainingError(f"A worker process on {platform.node()} could not begin: {self.message}")
