"""Errors, wrong usage and signals become one sentence on stderr and an exit code, without a traceback.

With `--json`, stdout gets one object in any case: the answer, or `{"error": …}`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from types import FrameType
from typing import Any, NamedTuple

import typer
from typer.core import TyperGroup

from autopeft.cli.printing import print_json
from autopeft.errors import AutopeftError, SpecError, first_line_of

# What typer raises on wrong usage. Newer versions of typer hold a copy of click, so the class is found as the
# parent of one that typer exports: BadParameter → UsageError → ClickException.
_UsageError: Any = typer.BadParameter.__bases__[0]

_LIBRARIES = "peft transformers datasets huggingface_hub httpx alembic bitsandbytes".split()
# Signals that ask a process to end; not every system has all: Ctrl-C, `kill`, a closed terminal, and what
# Slurm (`--signal`), Grid Engine (`-notify`) and LSF send before the end of a job.
_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
_INTERRUPTED, _INTERNAL = "interrupted", "internal"  # codes of a signal, and of a fault of autopeft itself


@contextlib.contextmanager
def exit_codes(
    *, as_json: bool = False, quiet: bool = False, notes: bool = True
) -> Iterator[Callable[[], None]]:
    """Turn an error of the block into its exit code; warnings and `notes` go to stderr as plain lines.

    Libraries log only errors. Ctrl-C exits with 130, SIGTERM with 143, a closed terminal with 129; finished
    measurements are on disk by then. `as_json` implies `quiet`, and prints an error as JSON. Yields a
    function for long loops to call: it raises if a signal has arrived (see `stopping_signals`).
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
        with stopping_signals() as stop:
            yield stop
    except (typer.Exit, BrokenPipeError):  # of a reader, such as `head`, that has ended: exit 1, silently
        raise
    except BaseException as error:
        failure = _failure_of(error)
        if failure.code not in (_INTERRUPTED, _INTERNAL):
            print(f"error: {failure.message}", file=sys.stderr)
        if as_json:
            print_json({"error": failure._asdict()})
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
        case SystemExit(code=int(code)) if code - 128 in set(signal.Signals):
            return _Failure(_INTERRUPTED, code, f"Stopped by {signal.Signals(code - 128).name}.")
        case SystemExit():  # of a library or of a user's function
            sentence = f"The command was ended by sys.exit({error.code!r})."
            return _Failure(AutopeftError.code, AutopeftError.exit_code, sentence)
    return _Failure(_INTERNAL, 1, f"{type(error).__name__}: {first_line_of(error)}")


@contextlib.contextmanager
def stopping_signals() -> Iterator[Callable[[], None]]:
    """Let signals stop the process by an exception; yields a function that raises it again.

    SIGINT raises KeyboardInterrupt, other signals SystemExit with 128 + the number of the signal. Python
    drops an exception that is raised inside a destructor or a callback of the garbage collector. So a long
    loop calls the function from time to time: it raises if any signal has arrived. A signal that the caller
    of this process ignores (`nohup`) stays ignored.
    """
    received: list[int] = []

    def stop() -> None:
        if received:
            raise KeyboardInterrupt if received[-1] == signal.SIGINT else SystemExit(128 + received[-1])

    def note(number: int, _: FrameType | None) -> None:
        received.append(number)
        stop()

    numbers = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
    usual = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        if usual[number] is not signal.SIG_IGN:
            signal.signal(number, note)
    try:
        yield stop
    finally:
        for number, handler in usual.items():
            if handler is not None:  # a handler that was not installed from Python cannot be restored
                signal.signal(number, handler)


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
            typed = extra.get("args") or (args[0] if args else sys.argv[1:])
            failure = _Failure(SpecError.code, SpecError.exit_code, self._sentence(error, typed))
            print(f"error: {failure.message}", file=sys.stderr)
            if "--json" in takewhile("--".__ne__, typed):
                print_json({"error": failure._asdict()})
            sys.exit(failure.exit_code)
        sys.exit(code if isinstance(code, int) else 0)

    def get_params(self, ctx: Any) -> Any:
        """Find the parameters of the group."""
        return _without_types(super().get_params(ctx))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Find a command of the group; None for another word."""
        command = super().get_command(ctx, cmd_name)
        if command is not None:
            _without_types(command.get_params(ctx))  # the command keeps these objects
        return command

    def _sentence(self, error: Any, typed: Sequence[str]) -> str:
        """Write what was wrong as one line, with the help to read."""
        words = " ".join(error.format_message().split())
        end = "" if words.endswith((".", "?")) else "."
        if error.ctx is not None:
            command = error.ctx.command_path
        else:  # for example if an option has no argument
            command = " ".join(["autopeft", *(word for word in typed[:1] if word in self.commands)])
        return f"{words}{end} See `{command} --help`."


def _without_types(parameters: Sequence[Any]) -> Sequence[Any]:
    """Hide the type of switches, which take no value, in the help."""
    for parameter in parameters:
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
    return parameters
