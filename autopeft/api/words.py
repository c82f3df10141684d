"""Errors in the words of Python: `resume=True` where the command line has `--resume`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from autopeft.errors import AutopeftError
from autopeft.records import python_words


@contextmanager
def in_python_words() -> Iterator[None]:
    """A context whose errors name arguments of Python in place of flags."""
    try:
        yield
    except AutopeftError as error:
        error.args = (python_words(str(error)), *error.args[1:])
        raise
