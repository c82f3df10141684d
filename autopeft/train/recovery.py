"""What gives way, step by step, where memory runs out in the training of a plan."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from autopeft.errors import reason_of
from autopeft.model import is_out_of_memory
from autopeft.records import Plan
from autopeft.train.compute import Compute, NothingToCutError, padded_tokens
from autopeft.train.encoding import EncodedSplit
from autopeft.train.prefix import FrozenOutputs

# A plan may keep three times as much for its backward pass as LoRA, by which pieces are cut.
_MOST_HALVINGS = 2

Result = TypeVar("Result")

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Recovery:
    """The tries of one measurement, each in less memory than the one before.

    First what was kept to save time gives way, then micro-batches are halved, twice at most and down to one
    row, then layers are checkpointed. Later plans of the kind whose `compute` this is keep to it too, unless
    it was no help: some methods keep as much for a row as for many. `steps` gives the micro-batches of the
    run, as rows of `split`.
    """

    compute: Compute
    frozen_outputs: FrozenOutputs
    split: EncodedSplit
    steps: Callable[[], list[list[Sequence[int]]]]
    is_trained: bool
    may_checkpoint: bool

    def __post_init__(self) -> None:
        """Note what is restored where nothing helps."""
        self._before, self._n_halved = replace(self.compute), 0

    def run(self, attempt: Callable[[], Result], plan: Plan, *, make_room: Callable[[], None]) -> Result:
        """What an attempt returns; it is made again while memory runs out and less can be taken."""
        while True:
            try:
                return attempt()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                how = self._next_try(error)
                if how is None:
                    raise
                text = (
                    "Memory ran out (%s): plan %s starts anew, %s; later plans with the same methods and "
                    "options begin in this way."
                )
                log.warning(text, reason_of(error), plan.digest, how)
            make_room()  # after the handler, whose error holds on to the tensors

    def _next_try(self, error: Exception) -> str | None:
        """Leave less to the next try, and say how; None, and all as before, where nothing is left to cut."""
        if self.frozen_outputs.n_bytes and self.compute.shares_outputs:
            self.compute.shares_outputs = False
            return "without outputs of frozen layers in memory"
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
