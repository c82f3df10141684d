"""Errors and warnings in the words of Python: `resume=True` where the command line has `--resume`."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from autopeft.errors import AutopeftError
from autopeft.records import python_words


@contextmanager
def in_python_words() -> Iterator[None]:
    """A context whose errors and log messages name arguments of Python in place of flags."""
    usual = logging.getLogRecordFactory()

    def in_words(*args: Any, **more: Any) -> logging.LogRecord:
        record = usual(*args, **more)
        if record.name.startswith("autopeft."):
            record.msg, record.args = python_words(record.getMessage()), ()
        return record

    logging.setLogRecordFactory(in_words)
    try:
        yield
    except AutopeftError as error:
        error.args = (python_words(str(error)), *error.args[1:])
        raise
    finally:
        logging.setLogRecordFactory(usual)
