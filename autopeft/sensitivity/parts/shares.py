"""How the sensitivity of a model in training is spread over its layers, from the gradients that it has."""

from __future__ import annotations

import re
from typing import Any, cast

import torch
from torch import nn

from autopeft.model import head_names, on_float64_device

OUTSIDE = "outside"  # the parameters that are in no layer, without the task head
_WRAPPER = "base_model.model."  # before every name of a `PeftModel`
_LAYER = re.compile(r"(.*?\.\d+)\.")


def layer_shares(module: nn.Module) -> dict[str, float]:
    """Share of each layer in Σ |w g| over the trainable parameters without the task head.

    Gradients may be clipped or scaled: a factor of all of them changes no share. Adapters count for the layer
    that they are attached to.

    Args:
        module: A model after a backward pass, in any precision.

    Returns:
        Name of the layer, such as `bert.encoder.layer.3`, or `outside` -> share in [0, 1], in the model's
        order; the shares sum to 1. Empty where nothing but the head has a gradient, or every product is 0.
    """
    base = cast(Any, module).get_base_model() if hasattr(module, "get_base_model") else module
    heads = tuple(f"{name}." for name in head_names(base))
    sums: dict[str, torch.Tensor] = {}
    for full_name, parameter in module.named_parameters():
        name = full_name.removeprefix(_WRAPPER)
        if parameter.grad is None or name.startswith(heads):
            continue
        layer = found[1] if (found := _LAYER.match(name)) else OUTSIDE
        products = (parameter.detach().float() * parameter.grad.float()).abs()
        term = on_float64_device(products).sum(dtype=torch.float64)
        sums[layer] = sums[layer] + term.to(sums[layer].device) if layer in sums else term
    values = {layer: float(value) for layer, value in sums.items()}
    total = sum(values.values())
    return {layer: value / total for layer, value in values.items()} if 0 < total < float("inf") else {}
