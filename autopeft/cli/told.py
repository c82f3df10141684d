"""Errors and signals as the user meets them: one sentence on stderr and an exit code, no traceback."""

from __future__ import annotations

import contextlib
import io
import logging
import signal
import sys
import warnings
from collections.abc import Iterator
from types import FrameType

import typer

from autopeft.errors import AutopeftError

EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143
_STOPPED = "stopped; a run that has measured something goes on with: autopeft search --resume --out FOLDER"


@contextlib.contextmanager
def told(*, quiet: bool = False) -> Iterator[None]:
    """Turn what goes wrong inside into an exit code; warnings and notes go to stderr as plain lines.

    Ctrl-C gives 130, SIGTERM 143; what was measured by then is on the disk.
    """
    logging.basicConfig(
        level=logging.WARNING if quiet else logging.INFO, format="%(message)s", stream=sys.stderr, force=True
    )
    _hush_libraries()
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal that knows ASCII alone gets ? for a dash
        sys.stdout.reconfigure(errors="replace")
    previous = signal.signal(signal.SIGTERM, _terminated)
    try:
        yield
    except AutopeftError as error:
        _say(f"error: {error}")
        raise typer.Exit(error.exit_code) from error
    except BrokenPipeError:  # the reader, such as `head`, has gone: typer ends in silence with 1
        raise
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _say(f"error: {where}{error.strerror or error}.")
        raise typer.Exit(AutopeftError.exit_code) from error
    except KeyboardInterrupt as error:
        _say(_STOPPED)
        raise typer.Exit(EXIT_INTERRUPTED) from error
    except SystemExit:  # not said in the handler, which may have interrupted a line on stderr
        _say(_STOPPED)
        raise
    finally:
        signal.signal(signal.SIGTERM, previous)


def _terminated(_signal: int, _frame: FrameType | None) -> None:
    raise SystemExit(EXIT_TERMINATED)


def _hush_libraries() -> None:
    """Below an error only what autopeft itself has to say reaches the user."""
    logging.getLogger("autopeft").setLevel(logging.NOTSET)
    for name in ("peft", "transformers", "datasets", "huggingface_hub", "httpx", "alembic", "bitsandbytes"):
        logging.getLogger(name).setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", module=name)


def _say(text: str) -> None:
    print(text, file=sys.stderr)
