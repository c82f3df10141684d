"""Cuts steps and evaluations into micro-batches, smaller ones if memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from autopeft.errors import TrainingError, first_line_of
from autopeft.model import is_out_of_memory, release_memory
from autopeft.train.curve import DivergedError
from autopeft.types import OptionPairs, Plan, Status

Result = TypeVar("Result")
Kind = frozenset[tuple[str, OptionPairs]]  # the methods of a plan with their options

# Tokens of an evaluation batch. Processor seconds of one core, in batches of 256, 512, 1,024, 2,048, 4,096
# tokens: 2.0, 2.0, 2.0, 2.2, 2.5 for 600 short sentences of MiniLM-L6; 18.2, 18.1, 18.6, 18.7, 20.6 for 48
# meaning representations of SmolLM2-135M. On a GPU heuristic.
_EVAL_TOKENS = {"cpu": 1024, "cuda": 32_768}
_EVAL_FACTOR = 2  # times a micro-batch's tokens: evaluation keeps nothing for a backward pass; heuristic
# Micro-batches are cut to fit LoRA; another method may keep three times as much for its backward pass.
_MOST_HALVINGS = 2


@dataclass(kw_only=True)
class Compute:
    """Limits on the memory of a bench; they change only rounding and draws of dropout."""

    micro_batch_tokens: int | None = None  # at most, padding included; None takes a step whole
    checkpointing: bool = False  # layers keep only their inputs for the backward pass, if the model allows it
    plain_tokens: int | None = None  # of a micro-batch without checkpointing; None: no limit
    max_eval_tokens: int | None = None  # of an evaluation batch; None: as many as are fastest
    memory_bytes: int | None = None  # that the device may use; None: no limit
    # Methods differ in what they keep for a backward pass: lowered limits hold for plans of the same methods.
    _of_kinds: dict[Kind, Compute] = field(default_factory=dict, repr=False, compare=False)

    def eval_tokens(self, device: str) -> int:
        """Return the most tokens of an evaluation batch: the fastest or twice a micro-batch."""
        best, trained = _EVAL_TOKENS.get(device, _EVAL_TOKENS["cuda"]), self.micro_batch_tokens
        usual = best if trained is None else _EVAL_FACTOR * trained
        return min(best, self.max_eval_tokens or usual)

    def of(self, plan: Plan) -> Compute:
        """Return the shared limits of all plans with this plan's methods and options."""
        kind = frozenset((adapter.method, adapter.options) for adapter in plan.adapters)
        if kind not in self._of_kinds:
            self._of_kinds[kind] = replace(self, _of_kinds={})
        return self._of_kinds[kind]


class NothingToCutError(MemoryError):
    """Memory ran out at a single row, so that a smaller batch does not help."""


def micro_batches(
    rows: Sequence[int], sizes: NDArray[np.int64], *, max_tokens: int | None
) -> list[Sequence[int]]:
    """Cut the rows of a step into micro-batches of at most `max_tokens`, padding included, or of one row."""
    if max_tokens is None or padded_tokens(rows, sizes) <= max_tokens:
        return [rows]
    batches: list[list[int]] = []
    longest = 0  # tokens of the longest row of the last micro-batch
    for row, length in zip(rows, sizes[list(rows)].tolist(), strict=True):
        longest = max(longest, length)
        if batches and (len(batches[-1]) + 1) * longest <= max_tokens:
            batches[-1].append(row)
        else:
            batches.append([row])
            longest = length
    return list(batches)


def padded_tokens(rows: Sequence[int], sizes: NDArray[np.int64]) -> int:
    """Count the tokens of a batch whose rows are padded to its longest one; 0 without rows."""
    return len(rows) * int(sizes[list(rows)].max(initial=0))


def unless_out_of_memory(device: torch.device, compute: Callable[[], Result]) -> Result | None:
    """Return what a function computes; None if memory runs out, once its tensors are freed."""
    try:
        return compute()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    release_memory(device)  # after the handler, whose error holds on to the tensors
    return None


def lower_memory(
    compute: Compute,
    steps: Sequence[Sequence[Sequence[int]]],
    sizes: NDArray[np.int64],
    *,
    n_lowered: int,
    may_checkpoint: bool,
) -> str | None:
    """Lower one limit of a run whose memory ran out, and describe it; None if none is left."""
    largest = max(chain.from_iterable(steps), key=lambda rows: padded_tokens(rows, sizes), default=())
    if n_lowered < _MOST_HALVINGS and len(largest) > 1:
        compute.micro_batch_tokens = padded_tokens(largest, sizes) // 2
        return f"in micro-batches of at most {compute.micro_batch_tokens} tokens"
    if compute.checkpointing or not may_checkpoint:
        return None
    compute.checkpointing = True
    return "with gradient checkpointing"


def failure_of(error: Exception, *, is_quantized: bool) -> tuple[Status, str]:
    """Return the status and reason of a run that failed; TrainingError if it broke the GPU."""
    if isinstance(error, DivergedError):
        return Status.DIVERGED, first_line_of(error)
    if isinstance(error, NothingToCutError):
        remedy = "take a smaller model" if is_quantized else "pass --quantize 4bit"
        return Status.OUT_OF_MEMORY, f"out of memory at a single row: lower --max-length, or {remedy}"
    if is_out_of_memory(error):
        remedy = "lower --micro-batch-tokens, --max-length or --batch-size"
        return Status.OUT_OF_MEMORY, f"out of memory: {remedy}"
    if isinstance(error, torch.AcceleratorError):
        raise TrainingError(
            f"A run broke the GPU for this process ({first_line_of(error)}); continue with --resume."
        ) from error
    return Status.FAIL, f"{type(error).__name__}: {first_line_of(error)}"
