"""Fisher: the trace of the empirical Fisher information of a target module's weights.

The value is the sum of the squared per-example gradients of the weight, by the ghost identity; of a norm also
of the bias. Biases of maps would vanish beside the weight and are left out. Experts in one parameter have no
gradient per example: the batch's gradient is squared, which favours what examples agree on.

Source: Kirkpatrick et al. 2017, arXiv:1612.00796, with the true labels.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from autopeft.sensitivity._shared.score import Sums, TargetScore, normalise
from autopeft.types import Target

_BLOCK = 2**22  # numbers in a block of per-example matrices (16 MiB in fp32); chosen by hand


def _reducer(targets: Sequence[Target]) -> Sums:
    last: list[tuple[weakref.ref[Tensor], Tensor]] = []

    def gram_of_inputs(inputs: Tensor) -> Tensor:
        """Compute `_gram` once for q, k and v, which read one input in turn; the input is not kept alive."""
        if not last or last[0][0]() is not inputs:
            last[:] = [(weakref.ref(inputs), _gram(inputs))]
        return last[0][1]

    def term(target: Target, module: nn.Module, inputs: Tensor, gradient: Tensor) -> Tensor:
        if target.kind == "parameter":
            return gradient.square().sum()
        if target.kind == "norm":
            parts = [(normalise(module, inputs) * gradient).sum(dim=1)]
            parts += [gradient.sum(dim=1)] if getattr(module, "bias", None) is not None else []
            return torch.stack([part.square().sum() for part in parts]).sum()
        return _squared_norms(inputs, gradient, gram_of_inputs).sum()

    return Sums(term)


def _squared_norms(inputs: Tensor, gradient: Tensor, gram_of_inputs: Callable[[Tensor], Tensor]) -> Tensor:
    """Squared norm of each example's weight gradient GᵀA, shape (B,), from A (B, T, in) and G (B, T, out).

    The ghost identity ‖GᵀA‖² = Σ (A Aᵀ) ∘ (G Gᵀ) costs T² (in + out) instead of T in out. Where
    2 T² > in × out, the per-example gradient itself is cheaper, for a block of examples at a time.

    Source: Goodfellow 2015, arXiv:1510.01799; Li et al. 2022, arXiv:2110.05679; the switch is that of
    Bu et al. 2022, arXiv:2205.10683.
    """
    n_tokens, n_in, n_out = inputs.shape[1], inputs.shape[2], gradient.shape[2]
    if n_tokens == 1:
        return (inputs.square().sum(dim=2) * gradient.square().sum(dim=2))[:, 0]
    if 2 * n_tokens**2 <= n_in * n_out:
        return _dots(gram_of_inputs(inputs), _gram(gradient))
    n_rows = max(1, _BLOCK // (n_in * n_out))
    blocks = zip(torch.split(gradient, n_rows), torch.split(inputs, n_rows), strict=True)
    products = (torch.bmm(g.transpose(1, 2), a) for g, a in blocks)
    return torch.cat([_dots(product, product) for product in products])


def _gram(rows: Tensor) -> Tensor:
    """Inner products of the tokens of each example, shape (B, T, T)."""
    return torch.bmm(rows, rows.transpose(1, 2))


def _dots(a: Tensor, b: Tensor) -> Tensor:
    dots: Tensor = torch.linalg.vecdot(a.flatten(1), b.flatten(1))
    return dots


PLUGIN = TargetScore(
    name="fisher",
    summary="trace of the empirical Fisher (summed squared per-example gradients)",
    unit="(loss per unit of weight) squared",
    reads_examples=True,
    reducer=_reducer,
)
