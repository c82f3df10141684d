"""A score of the weights alone: their squared Frobenius norm."""

from __future__ import annotations

from torch import Tensor, nn

from autopeft.plugins import Score
from autopeft.types import Target


def _value(target: Target, module: nn.Module, inputs: Tensor, gradient: Tensor) -> Tensor | None:
    weight = getattr(module, "weight", None)  # None for experts in one parameter
    return None if weight is None else weight.detach().float().square().sum()


PLUGIN = Score(
    name="weight_norm",
    summary="squared norm of the weights",
    unit="weight squared",
    value=_value,
    reads_examples=False,
)
