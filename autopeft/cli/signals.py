"""Signals: each raises where it arrives, and is remembered where Python swallows that."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType

# Those that ask a process to end, as far as this system has them: Ctrl-C, `kill`, a closed terminal;
# Ctrl-Break or a closed window on Windows; and what Slurm (`--signal`), Grid Engine (`-notify`) and LSF send
# before the end of a job, which would end a process without a word.
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK", "SIGUSR1", "SIGUSR2", "SIGXCPU")


@contextlib.contextmanager
def stopping_signals() -> Iterator[Callable[[], None]]:
    """A context in which signals stop the process by an exception; yields a function that repeats it.

    SIGINT raises KeyboardInterrupt, the others SystemExit with 128 + the number of the signal. Python drops
    an exception that is raised inside a destructor or a callback of the garbage collector, so that a long
    loop calls the function from time to time: it raises if any signal has come. A signal that the caller of
    this process ignores (`nohup`) stays ignored.
    """
    received: list[int] = []

    def stop() -> None:
        if received:
            raise KeyboardInterrupt if received[-1] == signal.SIGINT else SystemExit(128 + received[-1])

    def note(number: int, _: FrameType | None) -> None:
        received.append(number)
        stop()

    numbers = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        if before[number] is not signal.SIG_IGN:
            signal.signal(number, note)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            if handler is not None:  # one that was not installed from Python cannot be put back
                signal.signal(number, handler)
