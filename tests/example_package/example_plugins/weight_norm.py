"""A score: the squared Frobenius norm of the weights, from a pass whose numbers it does not look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from autopeft.types import Target


class Norms:
    """Notes each target module's norm once."""

    def __init__(self) -> None:
        self.found: dict[str, float] = {}

    def update(self, target: Target, module: nn.Module, inputs: torch.Tensor, gradient: torch.Tensor) -> None:
        weight = getattr(module, "weight", None)
        if weight is not None:
            self.found[target.name] = float(weight.detach().double().square().sum())

    def add(self, other: Any) -> None:
        self.found |= other.found

    def values(self, n_examples: int) -> dict[str, float]:
        return self.found


@dataclass(frozen=True)
class WeightNorm:
    """Large weights first."""

    name: str = "weight_norm"
    summary: str = "squared norm of the weights"
    unit: str = "weight squared"
    reads_examples: bool = True

    def reducer(self, targets: Sequence[Target]) -> Norms:
        return Norms()


PLUGIN = WeightNorm()
