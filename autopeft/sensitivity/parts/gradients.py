"""Gradients of a layer's weights from its input (B, T, in) and the gradient of its output (B, T, out)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from autopeft.records import Site


def weight_gradient(site: Site, module: nn.Module, inputs: Tensor, gradient: Tensor) -> Tensor:
    """Gradient of the batch's summed loss for the weight, in the weight's shape."""
    if site.kind == "parameter":
        return gradient
    if site.kind == "norm":
        return (normalise(module, inputs) * gradient).sum(dim=(0, 1))
    first, second = (inputs, gradient) if isinstance(module, Conv1D) else (gradient, inputs)
    return first.flatten(0, 1).T @ second.flatten(0, 1)


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
