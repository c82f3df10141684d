"""Gradient: how much the loss would change, to first order, if the weights of a target module were removed.

The value is Σ |w g|, where g is the gradient of a batch's mean loss; over batches it is the mean, weighted by
their sizes. It depends on the batch size, because gradients of examples that disagree cancel within a batch.
Biases are left out. A weight in few bits by bitsandbytes is dequantized; weights that other quantizers have
packed have no value.

Source: Molchanov et al. 2017, arXiv:1611.06440; used as in GoRA, arXiv:2502.12171.
"""

from __future__ import annotations

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from autopeft.model.linear_layers import plain_weight
from autopeft.sensitivity._shared.score import Sums, TargetScore, normalise
from autopeft.types import Target


def _weight_times_gradient(
    target: Target, module: nn.Module, inputs: Tensor, gradient: Tensor
) -> Tensor | None:
    """Sum |weight × gradient| over a target's weights in one batch; None if its weight cannot be read."""
    if target.kind == "parameter":
        return (gradient * inputs).abs().sum()  # not in place: other scores read both
    weight = plain_weight(module)
    if weight is None:
        return None
    if target.kind == "norm":
        of_weight = (normalise(module, inputs) * gradient).sum(dim=(0, 1))
    else:
        # The weight is (out, in), and (in, out) in a Conv1D.
        rows, columns = (inputs, gradient) if isinstance(module, Conv1D) else (gradient, inputs)
        of_weight = rows.flatten(0, 1).T @ columns.flatten(0, 1)
    return of_weight.mul_(weight.detach()).abs_().sum()


PLUGIN = TargetScore(
    name="gradient",
    summary="summed |weight × gradient|",
    unit="loss",
    reads_examples=True,
    reducer=lambda targets: Sums(_weight_times_gradient),
)
