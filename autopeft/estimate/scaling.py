"""The memory of a training step at any depth, batch and row length, from replays of a few small steps.

All bytes of a phase are a straight line of the number of layers, where layers are alike, and of the number of
rows; they are a square polynomial of the tokens of a row. For few tokens this does not hold, since copies of
weights then take more than activations do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import nn

from autopeft.estimate.fake_tensors import SlowReplayError
from autopeft.estimate.rates import Rates
from autopeft.estimate.replay import Replay, StepMemory, TrainingStep
from autopeft.extension import Batch

DEPTHS = (3, 4)  # layers; with fewer the first and the last layer are one, or have none between them
_LEAST_TOKENS = 1024  # of the smallest step that is scaled up; memory of 8 B weights is straight from there
_DIRECT_TOKENS = 8192  # of a step that is replayed as it is; a loss in pieces takes long for more
_KERNELS_PER_TENSOR = 18  # that is trained: of two steps of AdamW in torch 2.13, counted; more come beside
_N_ROWS = (1, 2, 3)  # in units of the shortest row: enough for a square


@dataclass(frozen=True, kw_only=True)
class TracedModel:
    """What is trained on which model: what a replay needs.

    `build` makes it without weights, with a number of layers or with all of them (None). `n_layers` is None
    where layers differ, so that all of them must be replayed. `batch` makes a batch of rows and tokens.
    `max_tokens` is the longest row of the model, None without a limit. A loss that goes over the labels in
    pieces takes `piece_tokens` of them at a time, 0 takes all at once. At least `n_tensors` are trained.
    `max_kernels` limits the replay of each depth; None does not.
    """

    build: Callable[[int | None], nn.Module]
    n_layers: int | None
    batch: Callable[[int, int], Batch]
    loss: Callable[[nn.Module, Batch], torch.Tensor]
    n_terms: Callable[[Batch], int] | None = None
    max_tokens: int | None = None
    piece_tokens: int = 0
    autocast: bool = True
    on_gpu: bool = True
    rates: Rates | None = None
    n_tensors: int = 0
    max_kernels: int | None = None


@dataclass(kw_only=True)
class MemoryModel:
    """The memory of steps of a traced, with or without checkpointing.

    `replays` holds the models of the traced by their layers; two models of memory can share it.
    """

    traced: TracedModel
    checkpointing: bool = False
    replays: dict[int | None, Replay] = field(default_factory=dict)
    _known: dict[tuple[int, int], StepMemory] = field(default_factory=dict)
    _points: dict[tuple[int, int], list[StepMemory]] = field(default_factory=dict)  # by their least step

    def at(self, n_rows: int, n_tokens: int) -> StepMemory:
        """The memory of a step of so many rows of so many tokens each."""
        if (n_rows, n_tokens) not in self._known:
            least_rows, least_tokens = self._least(n_rows * n_tokens)
            is_small = n_rows * n_tokens <= least_rows * least_tokens  # a loss may take less than two pieces
            is_direct = is_small or (not self._points and n_rows * n_tokens <= _DIRECT_TOKENS)
            compute = self._at_all_layers if is_direct else self.scaled
            self._known[n_rows, n_tokens] = compute(n_rows, n_tokens)
        return self._known[n_rows, n_tokens]

    def scaled(self, n_rows: int, n_tokens: int) -> StepMemory:
        """As `at`, without another replay; a loss in pieces is taken to fill one piece at least."""
        least = least_rows, least_tokens = self._least(n_rows * n_tokens)
        if least not in self._points:
            self._points[least] = [self._at_all_layers(least_rows, n * least_tokens) for n in _N_ROWS]
        share, x = n_rows / least_rows, n_tokens / least_tokens
        nothing = _square(0.0)  # what does not depend on the rows: a step of rows without tokens
        weights = [share * at + (1 - share) * none for at, none in zip(_square(x), nothing, strict=True)]
        return combined(self._points[least], weights)

    def _least(self, n: int) -> tuple[int, int]:
        """Rows and tokens of the smallest step that is scaled up to one of `n` tokens.

        It has two pieces of a loss; or, for a step within one piece, so few tokens that three such steps are
        less than a piece, if that is enough of them.
        """
        piece, limit = self.traced.piece_tokens, self.traced.max_tokens
        is_within = max(n, _N_ROWS[-1] * _LEAST_TOKENS) <= piece
        least = _LEAST_TOKENS if is_within else max(_LEAST_TOKENS, 2 * piece)
        tokens = least if limit is None else min(least, max(1, limit // _N_ROWS[-1]))
        return least // tokens if is_within else -(-least // tokens), tokens

    def _at_all_layers(self, n_rows: int, n_tokens: int) -> StepMemory:
        if self.traced.n_layers is None or self.traced.n_layers <= DEPTHS[-1]:
            return self._replayed(None, n_rows, n_tokens)
        few = [self._replayed(depth, n_rows, n_tokens) for depth in DEPTHS]
        beyond = self.traced.n_layers - DEPTHS[0]
        return combined(few, (1 - beyond, beyond))

    def _replayed(self, depth: int | None, n_rows: int, n_tokens: int) -> StepMemory:
        if depth not in self.replays:
            max_kernels, n_layers = self.traced.max_kernels, self.traced.n_layers
            share = 1.0 if depth is None or n_layers is None else depth / n_layers
            least_kernels = _KERNELS_PER_TENSOR * self.traced.n_tensors * share
            if max_kernels is not None and least_kernels > max_kernels:
                raise SlowReplayError(max_kernels)  # before the model is built, which takes as long
            self.replays[depth] = Replay(self.traced.build(depth), max_kernels=max_kernels)
        step = TrainingStep(
            micro_batches=[self.traced.batch(n_rows, n_tokens)],
            loss=self.traced.loss,
            n_terms=self.traced.n_terms,
            autocast=self.traced.autocast,
            checkpointing=self.checkpointing,
            on_gpu=self.traced.on_gpu,
            rates=self.traced.rates,
        )
        return self.replays[depth].memory(step)


def _square(x: float) -> tuple[float, float, float]:
    """Weights of the values at 1, 2 and 3 that give the value of their square polynomial at x (Lagrange)."""
    return ((x - 2) * (x - 3) / 2, -(x - 1) * (x - 3), (x - 1) * (x - 2) / 2)


def combined(memories: Sequence[StepMemory], weights: Sequence[float]) -> StepMemory:
    """The sum of each kind of bytes, weighted; phases that only some of them have are left out."""

    def total(values: Sequence[int]) -> int:
        return round(in_all(values))

    def in_all(values: Sequence[float]) -> float:
        return sum(weight * value for weight, value in zip(weights, values, strict=True))

    def by_phase(maps: Sequence[Mapping[str, int]]) -> dict[str, int]:
        shared = [phase for phase in maps[0] if all(phase in other for other in maps)]
        return {phase: total([each[phase] for each in maps]) for phase in shared}

    values: dict[str, Any] = {}
    for entry in fields(StepMemory):
        each = [getattr(memory, entry.name) for memory in memories]
        if isinstance(each[0], Mapping):
            values[entry.name] = by_phase(each)
        else:
            values[entry.name] = in_all(each) if isinstance(each[0], float) else total(each)
    return StepMemory(**values)
