"""What of a training step fits into a memory: its parts, the most rows, the longest row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from autopeft.estimate.living_bytes import HEAD
from autopeft.estimate.replay import StepMemory
from autopeft.estimate.scaling import MemoryModel

# What the allocator keeps beside what lives, as a share of activations, logits and loss. Fitted on two halves
# of 66 published configs the reserve is 7.5 % and 2.5 % of the peak, as the length of their rows is not known
# (reports/studies/published_memory.md); 7 % of these parts is 5 % of those peaks.
RESERVE = 0.07
# As a share of the same parts: 64 of the 66 configs lie within 5 % of the expected peak.
_UNCERTAINTY = 0.1
# What a CUDA context and the libraries' workspaces take of a GPU beside the allocator; chosen by hand.
_CONTEXT_BYTES = 2**29
# What Python, torch, transformers, peft, the tokenizer and the rows take of a process on a CPU. Fitted on
# three points of MiniLM-L6, tested on one more and SmolLM2-135M (reports/studies/resident_memory.md).
PROCESS_BYTES = 715 * 10**6
_MOST_ROWS = 2**16  # more are not asked for
_TOKEN_STEP = 16  # lengths of rows are rounded to multiples of it


@dataclass(frozen=True, kw_only=True)
class Memory:
    """The peak memory of a training step in five parts, in bytes.

    `weights` stay frozen; `trained` are adapters and head with their gradients and moments; `activations` are
    kept for the backward pass; `logits` belong to the output layer and the loss; the allocator's `reserve` is
    given as low, expected and high, on a CPU with what Python and its libraries take. `phase` is the part of
    the step that takes most.
    """

    weights: int
    trained: int
    activations: int
    logits: int
    reserve: tuple[int, int, int]
    phase: str

    @property
    def low(self) -> int:
        """What lives at once, without what the allocator keeps."""
        return self.weights + self.trained + self.activations + self.logits + self.reserve[0]

    @property
    def expected(self) -> int:
        """The best guess."""
        return self.low - self.reserve[0] + self.reserve[1]

    @property
    def high(self) -> int:
        """What a device should have."""
        return self.low - self.reserve[0] + self.reserve[2]


def in_parts(memory: StepMemory, *, on_gpu: bool) -> Memory:
    """A step's memory in parts, at its peak."""
    phase, peak = memory.peak_phase, memory.peak_bytes
    trained = memory.trained_bytes + memory.optimizer_bytes + memory.gradients_at_peak.get(phase, 0)
    rest = max(0, peak - memory.weights_bytes - trained)
    activations = min(rest, memory.body_bytes) if phase == HEAD else rest
    kept = round(RESERVE * rest)
    beyond = round(_UNCERTAINTY * (rest + kept)) + (_CONTEXT_BYTES if on_gpu else 0)
    process = 0 if on_gpu else PROCESS_BYTES
    return Memory(
        weights=memory.weights_bytes,
        trained=trained,
        activations=activations,
        logits=rest - activations,
        reserve=(process, process + kept, process + kept + beyond),
        phase=phase,
    )


def most_rows(model: MemoryModel, *, n_tokens: int, max_bytes: int) -> int:
    """The most rows of a length that fit, even at the high end; 0 where not one does."""
    return _largest(lambda n_rows: _high(model, n_rows, n_tokens) <= max_bytes, _MOST_ROWS)


def longest_row(model: MemoryModel, *, n_rows: int, max_bytes: int, limit: int) -> int:
    """The most tokens of each row that fit, in multiples of 16 and at most the model's limit; 0 if none."""
    n_steps = limit // _TOKEN_STEP
    return _TOKEN_STEP * _largest(lambda n: _high(model, n_rows, _TOKEN_STEP * n) <= max_bytes, n_steps)


def _high(model: MemoryModel, n_rows: int, n_tokens: int) -> int:
    return in_parts(model.scaled(n_rows, n_tokens), on_gpu=model.subject.on_gpu).high


def _largest(fits: Callable[[int], bool], limit: int) -> int:
    """The largest number from 0 to a limit that fits, where all smaller ones do."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
