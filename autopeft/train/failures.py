"""What a measurement says of the error that broke its run off."""

from __future__ import annotations

from autopeft.errors import first_line_of
from autopeft.model import is_out_of_memory
from autopeft.records import Status
from autopeft.train.compute import NothingToCutError
from autopeft.train.loop import DivergedError


def error_text(error: Exception) -> str:
    """What broke a run off, in the user's words where memory ran out."""
    if isinstance(error, NothingToCutError):
        return "out of memory at a single row: lower --max-length, or pass --quantize 4bit"
    if is_out_of_memory(error):
        return "out of memory: lower --micro-batch-tokens, --max-length or --batch-size"
    return f"{type(error).__name__}: {first_line_of(error)}"


def status_of(error: Exception) -> Status:
    """The status of a run that an error broke off."""
    if isinstance(error, DivergedError):
        return Status.DIVERGED
    return Status.OUT_OF_MEMORY if is_out_of_memory(error) else Status.FAIL
