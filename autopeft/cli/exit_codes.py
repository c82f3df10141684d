"""Errors, wrong usage and signals become one sentence on stderr and an exit code, without a traceback.

With `--json`, stdout gets one object in any case: the answer, or `{"error": …}`.
"""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import re
import shutil
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from textwrap import wrap
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
# Signals that ask a process to end; not every system has all: Ctrl-C, `kill`, a closed terminal; Ctrl-Break
# or a closed window on Windows; and what Slurm (`--signal`), Grid Engine (`-notify`) and LSF send before the
# end of a job.
_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK", "SIGUSR1", "SIGUSR2", "SIGXCPU")
_INTERRUPTED, _INTERNAL = "interrupted", "internal"  # codes of a signal, and of a fault of autopeft itself


@contextlib.contextmanager
def exit_codes(
    *, as_json: bool = False, quiet: bool = False, notes: bool = True
) -> Iterator[Callable[[], None]]:
    """Turn an error of the block into its exit code; warnings and `notes` go to stderr as plain lines.

    Libraries log only errors. Ctrl-C exits with 130, SIGTERM with 143, a closed terminal with 129;
    finished measurements are on the disk by then. `as_json` implies `quiet`, and prints the error as JSON
    unless the block has printed its answer. Yields a function for long loops to call: it raises if a signal
    has come (see `stopping_signals`).
    """
    quiet = quiet or as_json
    if quiet or not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # the bars of libraries, which are imported later
    stderr = sys.stderr
    sys.stderr = _Lasting(stderr)
    logging.basicConfig(
        level=logging.INFO if notes and not quiet else logging.WARNING, stream=sys.stderr, force=True
    )
    logging.getLogger().handlers[0].setFormatter(_Printable("%(message)s"))
    logging.getLogger().handlers[0].addFilter(_Repeats())
    logging.getLogger("autopeft").setLevel(logging.NOTSET)
    for name in _LIBRARIES:
        logging.getLogger(name).setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", module=name)
    stdout = sys.stdout
    sys.stdout = answer = _Answer(stdout)
    try:
        with stopping_signals() as stop:
            yield stop
    except (typer.Exit, BrokenPipeError):  # of a reader, such as `head`, that has ended: exit 1, silently
        raise
    except BaseException as error:
        failure = _failure_of(error)
        if failure.code not in (_INTERRUPTED, _INTERNAL):
            print(_printable(f"error: {failure.message}"), file=sys.stderr)
        if as_json and not answer.is_used:
            failure.print_json()
        if failure.code == _INTERNAL:
            raise
        raise typer.Exit(failure.exit_code) from error
    finally:
        sys.stdout, sys.stderr = stdout, stderr  # a library may have replaced ours


class _Failure(NamedTuple):
    """What the JSON of an error holds."""

    code: str
    exit_code: int
    message: str

    def print_json(self) -> None:
        """Print the object that stands for an answer; if nobody reads it, the exit code stays."""
        with reader_may_leave():
            print_json({"error": self._asdict()})


def _failure_of(error: BaseException) -> _Failure:
    """Return how a command fails by an error; one that autopeft does not foresee keeps its traceback."""
    match error:
        case AutopeftError():
            return _Failure(error.code, error.exit_code, str(error))
        case OSError(errno=errno.ENAMETOOLONG):  # some argument that should be a path is a long text
            sentence = f"There is no file {error.filename}: its name is too long; check the spelling."
            return _Failure(SpecError.code, SpecError.exit_code, sentence)
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
def reader_may_leave() -> Iterator[None]:
    """Drop output within the context if its reader, such as `head`, has ended; the work is finished."""
    stdout = sys.stdout
    sys.stdout = _Lasting(stdout)
    try:
        yield
    finally:
        sys.stdout = stdout
        try:
            stdout.flush()
        except OSError:  # Python flushes the rest at the end of the process: send it nowhere
            os.dup2(os.open(os.devnull, os.O_WRONLY), stdout.fileno())


class _Repeats(logging.Filter):
    """Drops a message that repeats the one before it: a command may load one model several times."""

    last_message = ""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the message differs from the one before it."""
        message = record.getMessage()
        is_new, self.last_message = message != self.last_message, message
        return is_new


class _Printable(logging.Formatter):
    """Formats a record as lines that fit a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """Write the line of a record."""
        return _printable(super().format(record))


def _printable(text: str) -> str:
    """Break lines between words on a terminal; a word that is longer than a line, such as a path, stays."""
    if not sys.stderr.isatty():
        return text
    width = shutil.get_terminal_size().columns
    lines = (wrap(line, width, break_long_words=False, break_on_hyphens=False) for line in text.split("\n"))
    return "\n".join(part for line in lines for part in line or [""])


class _Wrapped:
    """A stream in place of another, of which it has all but what it does itself."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class _Answer(_Wrapped):
    """A stream that knows whether it got any text."""

    is_used = False

    def write(self, text: str) -> int:
        """Write a text."""
        self.is_used = True
        self.stream.write(text)
        return len(text)


class _Lasting(_Wrapped):
    """A stream that drops text that it cannot write, so that a closed terminal ends no run."""

    def write(self, text: str) -> int:
        """Write a text, or drop it."""
        with contextlib.suppress(OSError):
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush the stream, or do nothing."""
        with contextlib.suppress(OSError):
            self.stream.flush()


@contextlib.contextmanager
def stopping_signals() -> Iterator[Callable[[], None]]:
    """Let signals stop the process by an exception; yields a function that raises it again.

    SIGINT raises KeyboardInterrupt, other signals SystemExit with 128 + the number of the signal. Python
    drops an exception that is raised inside a destructor or a callback of the garbage collector. So a long
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

    numbers = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
    usual = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        if usual[number] is not signal.SIG_IGN:
            signal.signal(number, note)
    try:
        yield stop
    finally:
        for number, handler in usual.items():
            if handler is not None:  # a handler that was not installed from Python cannot be put back
                signal.signal(number, handler)


class PlainErrors(TyperGroup):
    """A group of commands whose usage errors read as all others do: `error: …`, without a box."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run a command; in standalone mode the process then exits with the code of the command."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # an ASCII terminal gets ? for a dash, in help too
                stream.reconfigure(errors="replace")
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
                failure.print_json()
            sys.exit(failure.exit_code)
        sys.exit(code if isinstance(code, int) else 0)

    def get_params(self, ctx: Any) -> Any:
        """Find the parameters of the group."""
        return _adjusted(super().get_params(ctx))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Find a command of the group; None for another word."""
        command = super().get_command(ctx, cmd_name)
        if command is not None:
            _adjusted(command.get_params(ctx))  # in place: the command keeps these objects
        return command

    def _sentence(self, error: Any, typed: Sequence[str]) -> str:
        """Write what was wrong as one line, with the help to read, or what replaces a removed flag."""
        words = " ".join(error.format_message().split()).replace("Value error, ", "")  # of pydantic
        if "Input should" in str(error.__cause__):  # of pydantic, which newer typers read values with
            from autopeft.store import faults_of

            words = f"{error.param.opts[0]} {faults_of(error.__cause__)[0][1]}"
        extra = re.search(r"^Got unexpected extra arguments?(?:\(s\))? \(([^ )]+)", words)
        if extra and error.ctx and any("--data" in each.opts for each in error.ctx.command.params):
            words = f"{extra[1]} has no flag before it, such as --data {extra[1]} or --model {extra[1]}"
        end = "" if words.endswith((".", "?")) else "."
        if error.ctx is not None:
            command = error.ctx.command_path
        else:  # for example if an option lacks its argument
            command = " ".join(["autopeft", *(word for word in typed[:1] if word in self.commands)])
        return f"{words}{end} See `{command} --help`."


def _adjusted(parameters: Sequence[Any]) -> Sequence[Any]:
    """Change parameters in place: switches show no type in the help, and `~` starts the home folder."""
    for parameter in parameters:
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
        elif parameter.callback is None:
            parameter.callback = lambda _context, _parameter, value: at_home(value)
    return parameters


def at_home(value: Any) -> Any:
    """Put the home folder in place of `~`, which no shell expands after `=`; other values stay.

    Example:
        >>> at_home("reports"), at_home(None)
        ('reports', None)
    """
    if isinstance(value, list | tuple):
        return [at_home(each) for each in value]
    if not isinstance(value, str | Path):
        return value
    text = os.path.expanduser(value)  # noqa: PTH111 - Path.expanduser raises if there is no such user
    return Path(text) if isinstance(value, Path) else text
