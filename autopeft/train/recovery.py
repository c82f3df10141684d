"""What gives way, step by step, where memory runs out in the training of a plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import nn

from autopeft.model import can_checkpoint
from autopeft.train.compute import Compute, NothingToCutError, padded_tokens
from autopeft.train.encoding import EncodedSplit
from autopeft.train.prefix import FrozenOutputs

_MOST_HALVINGS = (
    2  # a plan may keep three times as much for its backward pass as LoRA, by which pieces are cut
)


@dataclass(kw_only=True)
class Recovery:
    """The tries of one measurement, each in less memory than the one before.

    First what was kept to save time gives way, then micro-batches are halved, twice at most and down to one
    row, then layers are checkpointed. Later plans keep to it too, unless it was no help: some methods keep as
    much for a row as for many. `steps` gives the micro-batches of the run, as rows of `split`.
    """

    compute: Compute
    frozen_outputs: FrozenOutputs
    model: nn.Module
    split: EncodedSplit
    steps: Callable[[], list[list[Sequence[int]]]]
    is_trained: bool

    def __post_init__(self) -> None:
        """Note what is restored where nothing helps."""
        self._before, self._most_kept, self._n_halved = (
            replace(self.compute),
            self.frozen_outputs.max_bytes,
            0,
        )

    def next_try(self, error: Exception) -> str | None:
        """Leave less to the next try, and say how; None, and all as before, where nothing is left to cut."""
        if self.frozen_outputs.n_bytes:
            self.frozen_outputs.max_bytes = 0
            return "without outputs of frozen layers in memory"
        if self.is_trained and not isinstance(error, NothingToCutError):
            if self._n_halved < _MOST_HALVINGS and self._halve():
                self._n_halved += 1
                return f"in micro-batches of at most {self.compute.micro_batch_tokens} tokens"
            if not self.compute.checkpointing and can_checkpoint(self.model):
                self.compute.checkpointing = True
                return "with gradient checkpointing"
        self.compute.micro_batch_tokens = self._before.micro_batch_tokens
        self.compute.checkpointing = self._before.checkpointing
        self.frozen_outputs.max_bytes = self._most_kept
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
