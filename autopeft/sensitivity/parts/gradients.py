"""Gradients of a layer's weights, and their squares, from its input (B, T, in) and gradient (B, T, out)."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from autopeft.records import Site
from autopeft.sensitivity.parts.score import Sums

Result = TypeVar("Result")

_BLOCK = 2**22  # numbers in a block of per-example matrices (16 MiB in fp32); chosen by hand


def cache_last_call(function: Callable[[Tensor], Result]) -> Callable[[Tensor], Result]:
    """The function, not called again for the same tensor, as q, k and v have the same input in turn.

    The tensor itself is not kept alive.
    """
    last: list[tuple[weakref.ref[Tensor], Result]] = []

    def cached(tensor: Tensor) -> Result:
        if not last or last[0][0]() is not tensor:
            last[:] = [(weakref.ref(tensor), function(tensor))]
        return last[0][1]

    return cached


def fisher_reducer(sites: Sequence[Site], seed: int) -> Sums:
    """Site name -> sum over weights of grad², averaged over examples, >= 0.

    Experts in one parameter have no gradient per example: the squared norm of the batch's gradient counts.
    """
    gram_of_inputs = cache_last_call(_gram)

    def term(site: Site, module: nn.Module, inputs: Tensor, gradient: Tensor) -> Tensor:
        if site.kind == "parameter":
            return gradient.square().sum()
        if site.kind == "norm":
            return norm_fisher(module, inputs, gradient)
        return _squared_norms(inputs, gradient, gram_of_inputs).sum()

    return Sums(term)


def norm_fisher(module: nn.Module, inputs: Tensor, gradient: Tensor) -> Tensor:
    """Sum over examples of grad² of a norm's weight and bias, shape ()."""
    return torch.stack([g.square().sum() for g in norm_gradients(module, inputs, gradient)]).sum()


def _squared_norms(inputs: Tensor, gradient: Tensor, gram_of_inputs: Callable[[Tensor], Tensor]) -> Tensor:
    """Squared norm of each example's weight gradient GᵀA, shape (B,), from A (B, T, in) and G (B, T, out).

    The ghost identity ‖GᵀA‖² = Σ (A Aᵀ) ∘ (G Gᵀ) costs T² (in + out) instead of T in out. Where
    2 T² > in × out, the per-example gradient itself is cheaper.

    Source: Goodfellow 2015, arXiv:1510.01799; Li et al. 2022, arXiv:2110.05679; the switch is that of
    Bu et al. 2022, arXiv:2205.10683.
    """
    n_tokens, n_in, n_out = inputs.shape[1], inputs.shape[2], gradient.shape[2]
    if n_tokens == 1:
        return (inputs.square().sum(dim=2) * gradient.square().sum(dim=2))[:, 0]
    if 2 * n_tokens**2 <= n_in * n_out:
        return _dots(gram_of_inputs(inputs), _gram(gradient))
    return squares_of_products(gradient, inputs)


def _gram(rows: Tensor) -> Tensor:
    """Inner products of the tokens of each example, shape (B, T, T)."""
    return torch.bmm(rows, rows.transpose(1, 2))


def squares_of_products(first: Tensor, second: Tensor) -> Tensor:
    """‖FᵀS‖² of each example, shape (B,), for F (B, T, m) and S (B, T, n), a block of examples at a time."""
    n_rows = max(1, _BLOCK // (first.shape[2] * second.shape[2]))
    blocks = zip(torch.split(first, n_rows), torch.split(second, n_rows), strict=True)
    products = (torch.bmm(f.transpose(1, 2), s) for f, s in blocks)
    return torch.cat([_dots(product, product) for product in products])


def _dots(first: Tensor, second: Tensor) -> Tensor:
    dots: Tensor = torch.linalg.vecdot(first.flatten(1), second.flatten(1))
    return dots


def summed_product(gradient: Tensor, inputs: Tensor) -> Tensor:
    """The batch's gradient of a linear map's weight, shape (out, in)."""
    return gradient.flatten(0, 1).T @ inputs.flatten(0, 1)


def weight_gradient(site: Site, module: nn.Module, inputs: Tensor, gradient: Tensor) -> Tensor:
    """Gradient of the batch's summed loss for the weight, in the weight's shape."""
    if site.kind == "parameter":
        return gradient
    if site.kind == "norm":
        return (normalise(module, inputs) * gradient).sum(dim=(0, 1))
    if isinstance(module, Conv1D):
        return summed_product(inputs, gradient)
    return summed_product(gradient, inputs)


def norm_gradients(module: nn.Module, inputs: Tensor, gradient: Tensor) -> tuple[Tensor, ...]:
    """Each example's gradients of a norm's weight and, where it has one, its bias, shape (B, out) each."""
    of_weight = (normalise(module, inputs) * gradient).sum(dim=1)
    has_bias = getattr(module, "bias", None) is not None
    return (of_weight, gradient.sum(dim=1)) if has_bias else (of_weight,)


def normalise(module: nn.Module, inputs: Tensor) -> Tensor:
    """The factor of a norm layer's weight in its output, in the shape of `inputs`."""
    with torch.no_grad():
        if type(module) is nn.LayerNorm:
            return nn.functional.layer_norm(inputs, module.normalized_shape, eps=module.eps)
        # Gemma multiplies by 1 + weight, so the output at weight 0 is subtracted.
        return _output(module, inputs, weight=1.0) - _output(module, inputs, weight=0.0)


def _output(module: nn.Module, inputs: Tensor, *, weight: float) -> Tensor:
    """A norm layer's output where all of its weight has one value and its other parameters are 0."""
    state = {name: torch.zeros_like(p, dtype=inputs.dtype) for name, p in module.named_parameters()}
    state["weight"].fill_(weight)
    output: Tensor = torch.func.functional_call(module, state, (inputs,))
    return output.float()


def expert_maps(site: Site, module: nn.Module, tensor: Tensor) -> Tensor:
    """Experts that one parameter holds (or their gradient) as maps, shape (experts, out, in)."""
    shape = (site.copies, site.in_features, site.out_features)
    is_square = site.in_features == site.out_features
    is_transposed = getattr(module, "is_transposed", False) if is_square else tensor.shape == shape
    return tensor.transpose(1, 2) if is_transposed else tensor
