"""Parameters: the number of weights, to compare scores of the data with mere size. Biases count in norms."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autopeft.plugins import Score
from autopeft.types import Target


def _value(target: Target, module: nn.Module, inputs: Tensor, gradient: Tensor) -> Tensor:
    if target.kind == "norm":
        return torch.tensor(float(target.out_features * (2 if target.has_bias else 1)))
    return torch.tensor(float(target.in_features * target.out_features * target.copies))


PLUGIN = Score(
    name="parameters", summary="the number of weights", unit="weights", value=_value, reads_examples=False
)
