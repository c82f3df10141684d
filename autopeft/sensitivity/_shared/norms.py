"""What a norm layer multiplies by its weight."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def normalized(module: nn.Module, inputs: Tensor) -> Tensor:
    """Compute what a norm layer multiplies by its weight, in the shape of `inputs`."""
    with torch.no_grad():
        if type(module) is nn.LayerNorm:
            return nn.functional.layer_norm(inputs, module.normalized_shape, eps=module.eps)
        # Gemma multiplies by 1 + weight, so the output at weight 0 is subtracted.
        return _output(module, inputs, weight=1.0) - _output(module, inputs, weight=0.0)


def _output(module: nn.Module, inputs: Tensor, *, weight: float) -> Tensor:
    """Compute a norm layer's output with one value in all of its weight and 0 in its other parameters."""
    state = {name: torch.zeros_like(p, dtype=inputs.dtype) for name, p in module.named_parameters()}
    state["weight"].fill_(weight)
    output: Tensor = torch.func.functional_call(module, state, (inputs,))
    return output.float()
