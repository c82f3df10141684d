"""Parameters: large target modules first; tells a score of the data from mere size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from autopeft.sensitivity._shared.score import TargetScore
from autopeft.types import Target


@dataclass
class _Counts:
    """Values of a score that looks at no example."""

    value_by_target: dict[str, float]

    def update(self, target: Target, module: nn.Module, inputs: Tensor, gradient: Tensor) -> None:
        """Do nothing: the values do not depend on batches."""

    def add(self, other: Any) -> None:
        """Do nothing: another reducer has the same values."""

    def values(self, n_examples: int) -> dict[str, float]:
        """Target module name -> value."""
        return self.value_by_target


def _counts(targets: Sequence[Target]) -> _Counts:
    counts = {}
    for target in targets:
        n_weights = target.in_features * target.out_features * target.copies  # without the bias
        if target.kind == "norm":
            n_weights = target.out_features * (2 if target.has_bias else 1)
        counts[target.name] = float(n_weights)
    return _Counts(counts)


PLUGIN = TargetScore(
    name="parameters",
    summary="the number of weights",
    unit="weights",
    reads_examples=False,
    reducer=_counts,
)
