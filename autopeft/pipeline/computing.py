"""How a run computes on its device, resolved once, and what to say where memory runs out before any plan."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

from autopeft import train
from autopeft.errors import ModelError, first_line_of
from autopeft.model import is_out_of_memory
from autopeft.records import Decision, RunSpec


def with_compute(spec: RunSpec, bench: train.Bench) -> tuple[RunSpec, train.Bench, tuple[Decision, ...]]:
    """Settings and bench with micro-batches and checkpointing, and the decisions about what was left open."""
    compute, decisions = train.choose_compute(bench, spec.execution)
    update = {
        "micro_batch_tokens": compute.micro_batch_tokens,
        "checkpointing": "on" if compute.checkpointing else "off",
    }
    execution = spec.execution.model_copy(update=update)
    return spec.model_copy(update={"execution": execution}), replace(bench, compute=compute), decisions


@contextlib.contextmanager
def memory_needed(purpose: str) -> Iterator[None]:
    """A context in which running out of memory is a ModelError that says what to do.

    `purpose` says what the memory is for, such as "loading the base model".
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        reason = first_line_of(error).rstrip(".")
        raise ModelError(f"Memory ran out in {purpose} ({reason}). {train.LESS_MEMORY}") from error
