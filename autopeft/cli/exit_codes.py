"""Errors, wrong usage and signals become one sentence on stderr and an exit code, without a traceback.

With `--json`, stdout gets one object in any case: the answer, or `{"error": …}`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from itertools import takewhile
from types import FrameType
from typing import Any, NamedTuple

import typer
from typer.core import TyperGroup

from autopeft.cli.printing import json_text
from autopeft.errors import AutopeftError, SpecError, first_line_of

# What typer raises on wrong usage. Newer versions of typer hold a copy of click, so the class is found as the
# parent of one that typer exports: BadParameter → UsageError → ClickException.
_UsageError: Any = typer.BadParameter.__bases__[0]

_LIBRARIES = "peft transformers datasets huggingface_hub httpx alembic bitsandbytes".split()
# Signals that ask a process to end; not every system has all: Ctrl-C, `kill`, a closed terminal …
_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
# … and what Slurm (`--signal`), Grid Engine (`-notify`) and LSF send before the end of a job.
_OF_SCHEDULERS = ("SIGUSR1", "SIGUSR2", "SIGXCPU")
_MOMENT_SECONDS = 0.1  # after which a destructor has ended; heuristic
_TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h: the job was stopped, and may be put into the queue again
_INTERRUPTED, _INTERNAL = "interrupted", "internal"  # codes of a signal, and of a fault of autopeft itself


@contextlib.contextmanager
def exit_codes(*, as_json: bool = False, quiet: bool = False, notes: bool = True) -> Iterator[None]:
    """Turn an error of the block into its exit code; warnings and `notes` go to stderr as plain lines.

    Libraries log only errors. Ctrl-C exits with 130, SIGTERM with 143, the signal of a scheduler with 75;
    finished measurements are on disk by then. `as_json` implies `quiet`, and prints an error as JSON.
    """
    quiet = quiet or as_json
    if quiet or not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # the bars of libraries, which are imported later
    level = logging.INFO if notes and not quiet else logging.WARNING
    logging.basicConfig(level=level, handlers=[_Notes()], force=True)
    for name in _LIBRARIES:
        logging.getLogger(name).setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", module=name)
    try:
        with stopping_signals():
            yield
    except (typer.Exit, BrokenPipeError):  # of a reader, such as `head`, that has ended: exit 1, silently
        raise
    except BaseException as error:
        failure = _failure_of(error)
        if failure.code not in (_INTERRUPTED, _INTERNAL):
            print(f"error: {failure.message}", file=sys.stderr)
        if as_json:
            print(json_text({"error": failure._asdict()}))
        if failure.code == _INTERNAL:
            raise
        raise typer.Exit(failure.exit_code) from error


class _Notes(logging.Handler):
    """Prints to the stderr of the moment, which a progress bar replaces; drops repetitions."""

    _last = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the message of a record, unless it repeats the one before it."""
        message = record.getMessage()
        if message != self._last:
            print(message, file=sys.stderr)
        self._last = message


class _Failure(NamedTuple):
    """What the JSON of an error holds."""

    code: str
    exit_code: int
    message: str


def _failure_of(error: BaseException) -> _Failure:
    """Return how a command fails by an error; an unforeseen one is internal."""
    match error:
        case AutopeftError():
            return _Failure(error.code, error.exit_code, str(error))
        case OSError():
            where = f"{error.filename}: " if error.filename else ""
            sentence = f"{where}{error.strerror or error}."
            return _Failure(AutopeftError.code, AutopeftError.exit_code, sentence)
        case KeyboardInterrupt():
            return _Failure(_INTERRUPTED, 130, "Stopped by SIGINT.")
        case StoppedError():
            return _Failure(_INTERRUPTED, int(str(error.code)), f"Stopped by {error.signal_name}.")
    return _Failure(_INTERNAL, 1, f"{type(error).__name__}: {first_line_of(error)}")


class StoppedError(SystemExit):
    """A signal asked the process to end; `code` is its exit code."""

    def __init__(self, signal_name: str) -> None:
        self.signal_name = signal_name
        super().__init__(_TRY_AGAIN if signal_name in _OF_SCHEDULERS else 128 + getattr(signal, signal_name))


@contextlib.contextmanager
def stopping_signals() -> Iterator[None]:
    """Let signals stop the process by an exception: SIGINT by KeyboardInterrupt, others by StoppedError.

    Python drops an exception that is raised inside a destructor or a callback of the garbage collector; such
    a signal is sent again. One that the caller of this process ignores (`nohup`) stays ignored.
    """

    def stop(number: int, _: FrameType | None) -> None:
        name = signal.Signals(number).name
        raise KeyboardInterrupt if name == "SIGINT" else StoppedError(name)

    def send_again(dropped: Any) -> None:
        if not isinstance(dropped.exc_value, KeyboardInterrupt | StoppedError):
            usual_hook(dropped)
            return
        number = getattr(signal, getattr(dropped.exc_value, "signal_name", "SIGINT"))
        threading.Timer(_MOMENT_SECONDS, _send_to_main_thread, [number]).start()

    names = (*_SIGNALS, *_OF_SCHEDULERS)
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    usual, usual_hook = {number: signal.getsignal(number) for number in numbers}, sys.unraisablehook
    for number in numbers:
        if usual[number] is not signal.SIG_IGN:
            signal.signal(number, stop)
    sys.unraisablehook = send_again
    try:
        yield
    finally:
        sys.unraisablehook = usual_hook
        for number, handler in usual.items():
            if handler is not None:  # a handler that was not installed from Python cannot be restored
                signal.signal(number, handler)


def _send_to_main_thread(number: int) -> None:
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident or 0, number)  # ends a wait of it, too
    else:  # on Windows
        signal.raise_signal(number)


class PlainErrors(TyperGroup):
    """A group of commands with usage errors like all others: `error: …` in one line, or JSON."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run a command; in standalone mode the process then exits with the code of the command."""
        if not extra.pop("standalone_mode", True):
            return super().main(*args, standalone_mode=False, **extra)  # type: ignore[misc]
        try:
            code = super().main(*args, standalone_mode=False, **extra)  # type: ignore[misc]
        except typer.Abort:
            sys.exit(1)
        except _UsageError as error:
            if type(error).__name__ == "NoArgsIsHelpError":  # the help is printed already
                sys.exit(2)
            typed: Sequence[str] = extra.get("args") or (args[0] if args else sys.argv[1:])
            failure = _Failure(SpecError.code, SpecError.exit_code, _sentence(error))
            print(f"error: {failure.message}", file=sys.stderr)
            if "--json" in takewhile("--".__ne__, typed):
                print(json_text({"error": failure._asdict()}))
            sys.exit(failure.exit_code)
        sys.exit(code if isinstance(code, int) else 0)


def _sentence(error: Any) -> str:
    """Write what was wrong with a command line as one line, with the help to read."""
    words = " ".join(error.format_message().split())
    end = "" if words.endswith((".", "?")) else "."
    command = "autopeft" if error.ctx is None else error.ctx.command_path
    return f"{words}{end} See `{command} --help`."
