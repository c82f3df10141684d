"""Errors and signals become one sentence on stderr and an exit code, without a traceback."""

from __future__ import annotations

import contextlib
import io
import logging
import signal
import sys
import warnings
from collections.abc import Iterator

import typer

from autopeft.errors import AutopeftError

_STOPPED = "stopped; to continue a run that has measurements: autopeft search --resume --out FOLDER"


@contextlib.contextmanager
def exit_codes(*, quiet: bool = False) -> Iterator[None]:
    """Turn an error of the block into its exit code; warnings and notes go to stderr as plain lines.

    Libraries may log errors only. Ctrl-C exits with 130 and SIGTERM with 143; finished measurements are on
    the disk by then.
    """
    logging.basicConfig(
        level=logging.WARNING if quiet else logging.INFO, format="%(message)s", stream=sys.stderr, force=True
    )
    logging.getLogger("autopeft").setLevel(logging.NOTSET)
    for name in ("peft", "transformers", "datasets", "huggingface_hub", "httpx", "alembic", "bitsandbytes"):
        logging.getLogger(name).setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", module=name)
    if isinstance(sys.stdout, io.TextIOWrapper):  # an ASCII terminal gets ? for a dash
        sys.stdout.reconfigure(errors="replace")
    previous = signal.signal(signal.SIGTERM, _terminated)
    try:
        yield
    except AutopeftError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(error.exit_code) from error
    except BrokenPipeError:  # the reader, such as `head`, has ended: typer exits silently with 1
        raise
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror or error}.", file=sys.stderr)
        raise typer.Exit(AutopeftError.exit_code) from error
    except KeyboardInterrupt as error:
        print(_STOPPED, file=sys.stderr)
        raise typer.Exit(130) from error
    except SystemExit:  # from _terminated, which prints nothing: it may have interrupted a line on stderr
        print(_STOPPED, file=sys.stderr)
        raise
    finally:
        signal.signal(signal.SIGTERM, previous)


def _terminated(*_: object) -> None:
    raise SystemExit(143)
