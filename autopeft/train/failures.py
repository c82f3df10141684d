"""What a measurement says of the error that broke its run off."""

from __future__ import annotations

import math

from autopeft.errors import first_line_of
from autopeft.extension import Evaluation
from autopeft.model import is_out_of_memory
from autopeft.records import Status
from autopeft.train.compute import NothingToCutError
from autopeft.train.loop import DivergedError


def less_memory(*, checkpointing: str, is_quantised: bool) -> str:
    """What to do for less memory, beyond what is on already.

    Args:
        checkpointing: `on`, `off` or `auto`, as `--checkpointing` takes it.
        is_quantised: Whether the base model is, on request or by its checkpoint.

    Example:
        >>> less_memory(checkpointing="on", is_quantised=True)
        'Lower --max-length, or take a smaller model.'
    """
    steps = ["lower --max-length"]
    steps += [] if checkpointing == "on" else ["set --checkpointing on"]
    steps += [] if is_quantised else ["pass --quantize 4bit"]
    text = f"{', '.join(steps)}, or take a smaller model."
    return text[0].upper() + text[1:]


def error_text(error: Exception, *, is_quantised: bool) -> str:
    """What broke a run off, in the user's words where memory ran out."""
    if isinstance(error, NothingToCutError):
        further = "take a smaller model" if is_quantised else "pass --quantize 4bit"
        return f"out of memory at a single row: lower --max-length, or {further}"
    if is_out_of_memory(error):
        return "out of memory: lower --micro-batch-tokens, --max-length or --batch-size"
    if isinstance(error, DivergedError):
        return first_line_of(error)
    return f"{type(error).__name__}: {first_line_of(error)}"


def status_of(error: Exception) -> Status:
    """The status of a run that an error broke off."""
    if isinstance(error, DivergedError):
        return Status.DIVERGED
    return Status.OUT_OF_MEMORY if is_out_of_memory(error) else Status.FAIL


def require_finite(evaluation: Evaluation, *, metric: str) -> None:
    """Raise ValueError where a metric, or the score of an example, is not finite and the loss is.

    Those of autopeft are finite then; a task or a metric of another package may not be.
    """
    values = (evaluation.metric or 0.0, *evaluation.example_scores)
    if math.isfinite(evaluation.loss) and not all(map(math.isfinite, values)):
        raise ValueError(f"the metric {metric} has a value that is not finite, and the loss is finite")
