"""Shapes, weights, widths and parameter counts of modules as if nothing were quantised or packed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from statistics import median_low
from typing import Any, cast

import torch
from peft.utils.integrations import dequantize_bnb_weight
from torch import nn
from transformers.pytorch_utils import Conv1D

from autopeft.records import Site

# Attributes that hold packed weights: of GPTQ and AWQ, HQQ, AQLM. None of these modules is an nn.Linear.
_PACKED = ("qweight", "W_q", "codes")
_BITS = {"Params4bit": 4, "Int8Params": 8}  # bitsandbytes' parameter classes
_PLAIN_TYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_WIDTHS = ("hidden_size", "d_model", "n_embd", "dim")  # what the configs of transformers call the hidden size


def map_shape(module: nn.Module) -> tuple[str, int, int] | None:
    """Kind, inputs and outputs of a linear map, quantised or not; None for any other module.

    bitsandbytes, torchao and fp8 keep `nn.Linear` as the base class, whatever they store.
    """
    if isinstance(module, Conv1D):
        n_in, n_out = module.weight.shape
        return "conv1d", n_in, n_out
    if isinstance(module, nn.Linear) or any(hasattr(module, name) for name in _PACKED):
        n_in, n_out = (getattr(module, name, None) for name in ("in_features", "out_features"))
        if isinstance(n_in, int) and isinstance(n_out, int):
            return "linear", n_in, n_out
    return None


def is_quantised(module: nn.Module) -> bool:
    """Whether a module is a linear map that stores anything but one float per weight."""
    return map_shape(module) is not None and not _is_plain(module)


def n_bits(module: nn.Module) -> int:
    """4 or 8 for a linear map that bitsandbytes quantised to that many bits, else 0."""
    return _BITS.get(type(getattr(module, "weight", None)).__name__, 0) if map_shape(module) else 0


def plain_weight(module: nn.Module) -> torch.Tensor | None:
    """A module's weight in floats; None where it has none, or a quantiser other than bitsandbytes packed it.

    The weight of a bitsandbytes map is dequantised, shape (out, in).
    """
    weight = cast(Any, getattr(module, "weight", None))
    if n_bits(module):
        dequantised: torch.Tensor = dequantize_bnb_weight(weight, state=getattr(module, "state", None))
        return dequantised
    return weight if _is_plain(module) else None


def n_params(module: nn.Module) -> int:
    """Parameters of a module as they were before quantisation; tied weights count once.

    A packed weight holds several numbers in one, and GPTQ and AWQ keep it in a buffer. A packed map counts
    in × out and its bias; its scales and zero points do not count.
    """
    sizes: dict[int, int] = {}
    for child in module.modules():
        if _is_packed(child):
            _, n_in, n_out = cast("tuple[str, int, int]", map_shape(child))
            has_bias = getattr(child, "bias", None) is not None
            sizes[id(child)] = n_in * n_out + (n_out if has_bias else 0)
        else:
            for parameter in child.parameters(recurse=False):
                # bitsandbytes packs experts in one parameter without a layer, and notes their shape here.
                shape = getattr(getattr(parameter, "quant_state", None), "shape", None)
                sizes[id(parameter)] = parameter.numel() if shape is None else math.prod(shape)
    return sum(sizes.values())


def _is_plain(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, torch.Tensor) and weight.dtype in _PLAIN_TYPES and not _is_packed(module)


def _is_packed(module: nn.Module) -> bool:
    """Whether a linear map stores another count of numbers than it has weights."""
    shape, weight = map_shape(module), getattr(module, "weight", None)
    n_stored = weight.numel() if isinstance(weight, torch.Tensor) else 0
    return shape is not None and n_stored != shape[1] * shape[2]


def hidden_size(config: Any, sites: Sequence[Site]) -> int:
    """The hidden size by the config; where it names several or none, as the sites have it.

    A model of text and images has a hidden size for each; of those, the one counts that most sites take in,
    the larger one on ties. Without any it is the median of the sites' inputs, 0 without sites.
    """
    inputs = Counter(site.in_features for site in sites)
    named: set[int] = set()
    for part in (config, *(getattr(config, name, None) for name in getattr(config, "sub_configs", {}))):
        sizes = (getattr(part, name, None) for name in _WIDTHS)
        # Swin and such name that of their last stage.
        named.update([size for size in sizes if isinstance(size, int) and size > 0][:1])
    if named:
        return max(named, key=lambda size: (inputs[size], size))
    return median_low(inputs.elements()) if inputs else 0
