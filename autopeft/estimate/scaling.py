"""The memory of a training step at any depth, from replays with few layers.

All bytes of a phase are a straight line of the number of layers, where layers are alike. The peak of a phase
moves from one layer to another as rows get longer, so that each batch and length is replayed as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import nn

from autopeft.estimate.rates import Rates
from autopeft.estimate.replay import Replay, StepMemory, TrainingStep
from autopeft.plugins import Batch

DEPTHS = (3, 4)  # layers; with fewer the first and the last layer are one, or have none between them


@dataclass(frozen=True, kw_only=True)
class TracedModel:
    """What a replay needs: how to build the model, its batches and its loss."""

    build: Callable[[int | None], nn.Module]  # without weights, with so many layers or all (None)
    n_layers: int | None  # None if layers differ, so that all of them must be replayed
    batch: Callable[[int, int], Batch]  # of so many rows and tokens
    loss: Callable[[nn.Module, Batch], torch.Tensor]
    n_terms: Callable[[Batch], int] | None = None
    max_tokens: int | None = None  # of a row; None without a limit
    autocast: bool = True
    on_gpu: bool = True
    rates: Rates | None = None


@dataclass(kw_only=True)
class MemoryModel:
    """The memory of training steps of a model, with or without checkpointing."""

    traced: TracedModel
    checkpointing: bool = False
    replays: dict[int | None, Replay] = field(default_factory=dict)  # by layers; two objects can share it
    _steps: dict[tuple[int, int], StepMemory] = field(default_factory=dict)  # by rows and tokens

    def at(self, n_rows: int, n_tokens: int) -> StepMemory:
        """Return the memory of a step of `n_rows` rows of `n_tokens` tokens each; replays are kept."""
        key = (n_rows, n_tokens)
        if key not in self._steps:
            n_layers = self.traced.n_layers
            if n_layers is None or n_layers <= DEPTHS[-1]:
                self._steps[key] = self._replayed(None, n_rows, n_tokens)
            else:
                shallow, deeper = (self._replayed(depth, n_rows, n_tokens) for depth in DEPTHS)
                self._steps[key] = with_more_layers(shallow, deeper, n_layers - DEPTHS[0])
        return self._steps[key]

    def _replayed(self, depth: int | None, n_rows: int, n_tokens: int) -> StepMemory:
        if depth not in self.replays:
            self.replays[depth] = Replay(self.traced.build(depth))
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


def with_more_layers(shallow: StepMemory, deeper: StepMemory, n_more: int) -> StepMemory:
    """Extrapolate to `n_more` layers more than `shallow` has; `deeper` has one layer more.

    Phases that only one of the two has are left out.
    """
    values: dict[str, Any] = {}
    for entry in fields(StepMemory):
        a, b = getattr(shallow, entry.name), getattr(deeper, entry.name)
        if isinstance(a, Mapping):
            values[entry.name] = {name: a[name] + n_more * (b[name] - a[name]) for name in a if name in b}
        else:
            values[entry.name] = a + n_more * (b - a)
    return StepMemory(**values)
