"""Gradient: how much the loss would change, to first order, if the weights of a target module were removed.

The value is Σ |w g|, where g is the gradient of a batch's mean loss; over batches it is the mean, weighted by
their sizes. It depends on the batch size, because gradients of examples that disagree cancel within a batch.
Biases are left out. Weights quantized by bitsandbytes are dequantized; weights that other quantizers have
packed have no value.

Source: Molchanov et al. 2017, arXiv:1611.06440; used as in GoRA, arXiv:2502.12171.
"""

from __future__ import annotations

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from autopeft.model.linear_layers import plain_weight
from autopeft.plugins import Score
from autopeft.sensitivity._shared.gradients import normalized
from autopeft.types import Target


def _value(target: Target, module: nn.Module, inputs: Tensor, gradient: Tensor) -> Tensor | None:
    if target.kind == "parameter":
        return (gradient * inputs).abs().sum()
    weight = plain_weight(module)
    if weight is None:
        return None
    if target.kind == "norm":
        weight_gradient = (normalized(module, inputs) * gradient).sum(dim=(0, 1))
    else:
        # The weight is (out, in), and (in, out) in a Conv1D.
        rows, columns = (inputs, gradient) if isinstance(module, Conv1D) else (gradient, inputs)
        weight_gradient = rows.flatten(0, 1).T @ columns.flatten(0, 1)
    return weight_gradient.mul_(weight.detach()).abs_().sum()


PLUGIN = Score(name="gradient", summary="summed |weight × gradient|", unit="loss", value=_value)
