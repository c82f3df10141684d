"""Cuts steps and evaluations into micro-batches, smaller ones if memory runs out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch

from autopeft.errors import first_line_of, reason_of
from autopeft.model import is_out_of_memory, release_memory
from autopeft.train.encoding import EncodedSplit
from autopeft.train.rows import Counts
from autopeft.types import OptionPairs, Plan

Result = TypeVar("Result")
Kind = frozenset[tuple[str, OptionPairs]]  # the methods of a plan with their options

# Tokens of an evaluation batch. Processor seconds of one core, in batches of 256, 512, 1,024, 2,048, 4,096
# tokens: 2.0, 2.0, 2.0, 2.2, 2.5 for 600 short sentences of MiniLM-L6; 18.2, 18.1, 18.6, 18.7, 20.6 for 48
# meaning representations of SmolLM2-135M. On a GPU heuristic.
_EVAL_TOKENS = {"cpu": 1024, "cuda": 32_768}
_EVAL_FACTOR = 2  # times a micro-batch's tokens: evaluation keeps nothing for a backward pass; heuristic
# Micro-batches are cut to fit LoRA; another method may keep three times as much for its backward pass.
_MOST_HALVINGS = 2

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Compute:
    """Limits on the memory of a bench; they change only rounding and draws of dropout.

    If memory runs out for a plan, its limits are lowered and layers are checkpointed, also for later plans of
    the same kind. Kinds differ in what they keep for a backward pass, so that each has limits of its own.

    Attributes:
        micro_batch_tokens: Most tokens of a micro-batch, padding included; None takes a step whole.
        checkpointing: Whether layers keep only their inputs for the backward pass, if the model allows it.
        plain_tokens: The same as `micro_batch_tokens` for passes without checkpointing; None: as many.
        max_eval_tokens: Most tokens of an evaluation batch; None: as many as are fastest.
        memory_bytes: The most that the device may use; None: no limit.
    """

    micro_batch_tokens: int | None = None
    checkpointing: bool = False
    plain_tokens: int | None = None
    max_eval_tokens: int | None = None
    memory_bytes: int | None = None
    _of_kinds: dict[Kind, Compute] = field(default_factory=dict, repr=False, compare=False)

    @property
    def most_plain_tokens(self) -> int | None:
        """Most tokens of a micro-batch without checkpointing; None: no limit."""
        return self.micro_batch_tokens if self.plain_tokens is None else self.plain_tokens

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


def in_smaller_batches(
    attempt: Callable[[int], Result], max_tokens: int, *, smallest: int, device: torch.device
) -> Result:
    """Call `attempt` with `max_tokens`, and with half as many each time that memory runs out.

    Raises NothingToCutError if memory runs out at `smallest`, the tokens of the largest row.
    """
    while True:
        try:
            return attempt(max_tokens)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if max_tokens <= smallest:
                raise NothingToCutError(f"{first_line_of(error)} (one row)") from error
        release_memory(device)
        max_tokens = max(max_tokens // 2, smallest)


def micro_batches(rows: Sequence[int], sizes: Counts, *, max_tokens: int | None) -> list[Sequence[int]]:
    """Cut the rows of a step into micro-batches of at most `max_tokens`, padding included.

    Each has at least one row, so that a row longer than `max_tokens` is a micro-batch of its own.
    """
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


def padded_tokens(rows: Sequence[int], sizes: Counts) -> int:
    """Count the tokens of a batch whose rows are padded to its longest one; 0 without rows."""
    return len(rows) * int(sizes[list(rows)].max(initial=0))


@dataclass(kw_only=True)
class Recovery:
    """Lowers the limits of one measurement, in place, each time that memory runs out.

    Micro-batches are halved, twice at most and down to one row; then layers are checkpointed. If that does
    not help, all limits are restored: some methods keep as much for a row as for many. Later plans of the
    same kind share `compute`. `steps` returns the run's micro-batches under it, as rows of `split`.
    """

    compute: Compute
    split: EncodedSplit
    steps: Callable[[], list[list[Sequence[int]]]]
    is_trained: bool
    may_checkpoint: bool

    def __post_init__(self) -> None:
        self._before, self._n_halved = replace(self.compute), 0

    def lower_memory(self, error: Exception, plan: Plan) -> bool:
        """Lower a limit for the next try of a plan, and log it; False if the error is final."""
        how = self._next_try(error) if is_out_of_memory(error) else None
        if how is not None:
            text = (
                "Memory ran out (%s): plan %s starts again, %s; later plans with the same methods and "
                "options start this way."
            )
            log.warning(text, reason_of(error), plan.digest, how)
        return how is not None

    def _next_try(self, error: Exception) -> str | None:
        """Lower one limit and describe it; if none can be lowered, restore all, return None."""
        if self.is_trained and not isinstance(error, NothingToCutError):
            if self._n_halved < _MOST_HALVINGS and self._halve():
                self._n_halved += 1
                return f"in micro-batches of at most {self.compute.micro_batch_tokens} tokens"
            if not self.compute.checkpointing and self.may_checkpoint:
                self.compute.checkpointing = True
                return "with gradient checkpointing"
        vars(self.compute).update(vars(self._before))
        return None

    def _halve(self) -> bool:
        """Lower the limit to half of the largest micro-batch; False if that is one row."""
        sizes = self.split.sizes
        batches = [rows for step in self.steps() for rows in step]
        largest = max(batches, key=lambda rows: padded_tokens(rows, sizes), default=())
        if len(largest) <= 1:
            return False
        self.compute.micro_batch_tokens = padded_tokens(largest, sizes) // 2
        return True
