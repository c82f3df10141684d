"""How a run computes on its device, resolved once, and what to say where memory runs out before any plan."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import replace

from autopeft import train
from autopeft.errors import ModelError, first_line_of
from autopeft.extension import Executor, discover
from autopeft.model import BaseModel, device_names, free_bytes, is_out_of_memory
from autopeft.records import Decision, ExecutionSpec, RunSpec


def with_compute(spec: RunSpec, bench: train.Bench) -> tuple[RunSpec, train.Bench, tuple[Decision, ...]]:
    """Settings and bench with micro-batches and checkpointing, and the decisions about what was left open."""
    memory_bytes = memory_of_one(spec.execution, bench.base)
    execution = spec.execution.model_copy(update={"memory_bytes": memory_bytes})
    compute, decisions = train.choose_compute(bench, execution)
    update = {
        "micro_batch_tokens": compute.micro_batch_tokens,
        "checkpointing": "on" if compute.checkpointing else "off",
    }
    execution = spec.execution.model_copy(update=update)
    return spec.model_copy(update={"execution": execution}), replace(bench, compute=compute), decisions


def memory_of_one(execution: ExecutionSpec, base: BaseModel) -> int | None:
    """The most bytes of its device that a process which measures may use, weights included; None: all of it.

    Workers that share a GPU get equal parts of it. This process takes none beside them: it leaves the GPU
    before they load their models, but for quantised weights.
    """
    limit_bytes, n_sharing = execution.memory_bytes, 1
    if base.device.type == "cuda":
        n_sharing = _n_sharing(execution)
    if n_sharing == 1:
        return limit_bytes
    free = free_bytes(base.device, limit_bytes=limit_bytes)
    return max(1, (free + (0 if base.n_bits else base.weight_bytes)) // n_sharing)


def _n_sharing(execution: ExecutionSpec) -> int:
    """How many processes that measure share a device."""
    executor: Executor = discover("autopeft.executors")[execution.executor]
    if executor.shares_memory or executor.assigns_gpus:
        return 1
    return max(1, math.ceil(execution.workers / len(device_names(execution.device))))


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
