"""How training computes: the pieces in which a step goes through the model, also where memory runs out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch

from autopeft.errors import first_line_of, reason_of
from autopeft.model import is_out_of_memory, release_memory
from autopeft.records import OptionPairs, Plan
from autopeft.train.encoding import EncodedSplit
from autopeft.train.rows import Counts

Result = TypeVar("Result")
Kind = frozenset[tuple[str, OptionPairs]]  # of a plan: methods and their options

# Tokens of an evaluation batch. Processor seconds of one core, in batches of 256, 512, 1,024, 2,048, 4,096
# tokens: 2.0, 2.0, 2.0, 2.2, 2.5 for 600 short sentences of MiniLM-L6; 18.2, 18.1, 18.6, 18.7, 20.6 for 48
# meaning representations of SmolLM2-135M. On a GPU chosen by hand.
_EVAL_TOKENS = {"cpu": 1024, "cuda": 32_768}
BATCHES_SHARE = 0.1  # of the device's free memory, for batches of tokens; chosen by hand
_EVAL_FACTOR = 2  # tokens beside those of a micro-batch, which keeps much for its backward pass; by hand
# A plan may keep three times as much for its backward pass as LoRA, by which pieces are cut.
_MOST_HALVINGS = 2

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Compute:
    """How a bench computes; none of it changes what is computed but for rounding and the draws of dropout.

    A step goes through the model in micro-batches of at most `micro_batch_tokens`, padding included; None
    takes it whole. With `checkpointing`, layers keep only their inputs for the backward pass, where the model
    allows it; `plain_tokens` are the most of a micro-batch whose layers keep all, None: as many.
    An evaluation batch has at most `max_eval_tokens`; None: as many as are best. What is kept for later plans
    respects `memory_bytes`, the most that the device may use.

    Where memory runs out for a plan, the two limits are lowered and layers checkpointed: for later plans of
    its kind too, and for no others, since kinds differ in what they keep for a backward pass.
    """

    micro_batch_tokens: int | None = None
    checkpointing: bool = False
    plain_tokens: int | None = None
    max_eval_tokens: int | None = None
    memory_bytes: int | None = None
    _of_kinds: dict[Kind, Compute] = field(default_factory=dict, repr=False, compare=False)

    @property
    def most_plain_tokens(self) -> int | None:
        """Most tokens of a micro-batch whose layers keep all for the backward pass; None: no limit."""
        return self.micro_batch_tokens if self.plain_tokens is None else self.plain_tokens

    def eval_tokens(self, device: str) -> int:
        """Most tokens of an evaluation batch: what is best there, or twice what training takes, if less."""
        best, trained = _EVAL_TOKENS.get(device, _EVAL_TOKENS["cuda"]), self.micro_batch_tokens
        usual = best if trained is None else _EVAL_FACTOR * trained
        return min(best, self.max_eval_tokens or usual)

    def of(self, plan: Plan) -> Compute:
        """How plans with the same methods and options compute; a change is for all of them."""
        kind = frozenset((adapter.method, adapter.options) for adapter in plan.adapters)
        if kind not in self._of_kinds:
            self._of_kinds[kind] = replace(self, _of_kinds={})
        return self._of_kinds[kind]


class NothingToCutError(MemoryError):
    """Memory ran out at a single row, so that a smaller batch is no help."""


def in_smaller_batches(
    attempt: Callable[[int], Result], max_tokens: int, *, smallest: int, device: torch.device
) -> Result:
    """Try batches of so many tokens, and half as many each time that memory runs out.

    Raises NothingToCutError where memory runs out at `smallest`, the tokens of the largest row.
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
    """Cut the rows of a step, in their order, into parts of at most `max_tokens` each, padding included.

    A part has at least one row, so that a row longer than `max_tokens` is a part of its own.
    """
    if max_tokens is None or padded_tokens(rows, sizes) <= max_tokens:
        return [rows]
    parts: list[list[int]] = []
    longest = 0  # row of the last part
    for row, length in zip(rows, sizes[list(rows)].tolist(), strict=True):
        longest = max(longest, length)
        if parts and (len(parts[-1]) + 1) * longest <= max_tokens:
            parts[-1].append(row)
        else:
            parts.append([row])
            longest = length
    return list(parts)


def padded_tokens(rows: Sequence[int], sizes: Counts) -> int:
    """Count the tokens of a batch whose rows are padded to its longest one; 0 without rows."""
    return len(rows) * int(sizes[list(rows)].max(initial=0))


@dataclass(kw_only=True)
class Recovery:
    """The tries of one measurement, each in less memory than the one before.

    First micro-batches are halved, twice at most and down to one row, then layers are checkpointed. Later
    plans of the kind whose `compute` this is keep to it too, unless it was no help: some methods keep as much
    for a row as for many. `steps` gives the micro-batches of the run, as rows of `split`.
    """

    compute: Compute
    split: EncodedSplit
    steps: Callable[[], list[list[Sequence[int]]]]
    is_trained: bool
    may_checkpoint: bool

    def __post_init__(self) -> None:
        """Note what is restored where nothing helps."""
        self._before, self._n_halved = replace(self.compute), 0

    def lower_memory(self, error: Exception, plan: Plan) -> bool:
        """Leave less memory to the next try of a plan; False where that would not mend an error."""
        how = self._next_try(error) if is_out_of_memory(error) else None
        if how is not None:
            text = (
                "Memory ran out (%s): plan %s starts anew, %s; later plans with the same methods and "
                "options begin in this way."
            )
            log.warning(text, reason_of(error), plan.digest, how)
        return how is not None

    def _next_try(self, error: Exception) -> str | None:
        """Lower one limit, and say which; None if nothing can be cut, and then all limits are restored."""
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
        """Lower the limit to half of the largest micro-batch; False where that is one row."""
        sizes = self.split.sizes
        parts = [rows for step in self.steps() for rows in step]
        largest = max(parts, key=lambda rows: padded_tokens(rows, sizes), default=())
        if len(largest) <= 1:
            return False
        self.compute.micro_batch_tokens = padded_tokens(largest, sizes) // 2
        return True
