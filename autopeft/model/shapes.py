"""What modules hold in logical numbers, also where a quantiser has packed their weights."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from peft.utils.integrations import dequantize_bnb_weight
from torch import nn
from transformers.pytorch_utils import Conv1D

# How GPTQ and AWQ, HQQ, and AQLM call what they packed; none of these modules is an nn.Linear.
_PACKED = ("qweight", "W_q", "codes")

_BITS = {"Params4bit": 4, "Int8Params": 8}  # how bitsandbytes calls what it holds

_PLAIN_TYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def map_shape(module: nn.Module) -> tuple[str, int, int] | None:
    """Kind, inputs and outputs of a linear map, quantised or not; None for any other module.

    bitsandbytes, torchao and fp8 keep `nn.Linear` as the base class, whatever they store.
    """
    if isinstance(module, Conv1D):
        n_in, n_out = module.weight.shape
        return "conv1d", n_in, n_out
    if isinstance(module, nn.Linear) or any(hasattr(module, name) for name in _PACKED):
        features = getattr(module, "in_features", None), getattr(module, "out_features", None)
        if all(isinstance(n, int) for n in features):
            return "linear", cast(int, features[0]), cast(int, features[1])
    return None


def is_quantised(module: nn.Module) -> bool:
    """Whether a linear map stores something else than one plain number for each weight."""
    weight = getattr(module, "weight", None)
    return map_shape(module) is not None and (
        not isinstance(weight, torch.Tensor) or weight.dtype not in _PLAIN_TYPES or _is_packed(module)
    )


def n_bits(module: nn.Module) -> int:
    """4 or 8 where bitsandbytes holds a linear map in so many bits, else 0."""
    return _BITS.get(type(getattr(module, "weight", None)).__name__, 0) if map_shape(module) else 0


def plain_weight(module: nn.Module) -> torch.Tensor | None:
    """A module's weight in plain numbers; None where it has none at hand.

    That of bitsandbytes' maps is read back, shape (out, in); what other quantisers packed is not.
    """
    weight = cast(Any, getattr(module, "weight", None))
    if n_bits(module):
        found: torch.Tensor = dequantize_bnb_weight(weight, state=getattr(module, "state", None))
        return found
    is_plain = isinstance(weight, torch.Tensor) and weight.dtype in _PLAIN_TYPES and not _is_packed(module)
    return weight if is_plain else None


def n_params(module: nn.Module) -> int:
    """Parameters of a module as they were before quantisation; tied weights count once.

    A packed weight holds several numbers in one, and lies in a buffer where GPTQ or AWQ packed it:
    such a map counts in × out and its bias, its scales and zero points not at all.
    """
    sizes: dict[int, int] = {}
    for child in module.modules():
        if _is_packed(child):
            _, n_in, n_out = cast("tuple[str, int, int]", map_shape(child))
            has_bias = getattr(child, "bias", None) is not None
            sizes[id(child)] = n_in * n_out + (n_out if has_bias else 0)
        else:
            for parameter in child.parameters(recurse=False):
                sizes[id(parameter)] = _numel(parameter)
    return sum(sizes.values())


def _is_packed(module: nn.Module) -> bool:
    """Whether a linear map stores another number of numbers than it has weights."""
    shape = map_shape(module)
    if shape is None:
        return False
    weight = getattr(module, "weight", None)
    stored = weight.numel() if isinstance(weight, torch.Tensor) else 0
    return stored != shape[1] * shape[2]


def _numel(parameter: torch.Tensor) -> int:
    """By bitsandbytes' note of the shape where there is one: experts in one parameter are packed alone."""
    state = cast(Any, getattr(parameter, "quant_state", None))
    shape = getattr(state, "shape", None)
    return parameter.numel() if shape is None else math.prod(shape)
