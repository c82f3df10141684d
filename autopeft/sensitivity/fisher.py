"""Fisher: the trace of the empirical Fisher information of a target module's weights.

The value is the sum of the squared per-example gradients of the weight; of a norm also of the bias. Biases of
linear layers would vanish next to the weight and are left out. Experts in one parameter have no gradient per
example: the batch's gradient is squared, which favors what examples agree on.

Source: Kirkpatrick et al. 2017, arXiv:1612.00796, with the true labels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autopeft.plugins import Score
from autopeft.sensitivity._shared.gradients import normalized
from autopeft.types import Target

_BLOCK = 2**22  # numbers in a block of per-example gradients (16 MiB in fp32); heuristic


def _value(target: Target, module: nn.Module, inputs: Tensor, gradient: Tensor) -> Tensor:
    if target.kind == "parameter":
        return gradient.square().sum()
    if target.kind == "norm":
        value = (normalized(module, inputs) * gradient).sum(dim=1).square().sum()
        has_bias = getattr(module, "bias", None) is not None
        return value + gradient.sum(dim=1).square().sum() if has_bias else value
    return _squared_norms(inputs, gradient).sum()


def _squared_norms(inputs: Tensor, gradient: Tensor) -> Tensor:
    """Squared norm of each example's weight gradient GᵀA, shape (B,), from A (B, T, in) and G (B, T, out).

    The ghost identity ‖GᵀA‖² = Σ (A Aᵀ) ∘ (G Gᵀ) costs T² (in + out) instead of T in out. Where
    2 T² > in × out, the per-example gradient itself is cheaper, for a block of examples at a time.

    Source: Goodfellow 2015, arXiv:1510.01799; Li et al. 2022, arXiv:2110.05679; the switch is that of
    Bu et al. 2022, arXiv:2205.10683.
    """
    n_tokens, n_in, n_out = inputs.shape[1], inputs.shape[2], gradient.shape[2]
    if 2 * n_tokens**2 <= n_in * n_out:
        return _dots(inputs @ inputs.mT, gradient @ gradient.mT)
    n_rows = max(1, _BLOCK // (n_in * n_out))
    blocks = zip(torch.split(gradient, n_rows), torch.split(inputs, n_rows), strict=True)
    products = (g.mT @ a for g, a in blocks)
    return torch.cat([_dots(product, product) for product in products])


def _dots(a: Tensor, b: Tensor) -> Tensor:
    dots: Tensor = torch.linalg.vecdot(a.flatten(1), b.flatten(1))
    return dots


PLUGIN = Score(
    name="fisher",
    summary="trace of the empirical Fisher (summed squared per-example gradients)",
    unit="(loss per unit of weight) squared",
    value=_value,
)
