"""Stand-ins for maps in 4 or 8 bits, since bitsandbytes has no tensors without memory."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from autopeft.model import BYTES_PER_WEIGHT


class _Dequantised(torch.autograd.Function):
    """A product with a map that is unpacked for it, once forward and once backward, as bitsandbytes does."""

    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor, packed: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
        ctx.save_for_backward(packed)
        ctx.shape = shape
        return functional.linear(inputs, _unpacked(packed, shape, inputs.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (packed,) = ctx.saved_tensors
        (gradient,) = gradients
        return gradient @ _unpacked(packed, ctx.shape, gradient.dtype), None, None


def _unpacked(packed: torch.Tensor, shape: tuple[int, int], dtype: torch.dtype) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device=packed.device)


class FewBitsLinear(nn.Linear):
    """A linear map whose weight takes few bits and has no values; only its memory is right."""

    def __init__(self, plain: nn.Linear, weight_bytes: float, *, dtype: torch.dtype) -> None:
        """Take the place of a plain map; it is multiplied in `dtype`."""
        super().__init__(1, 1, bias=False, device="meta")
        self.in_features, self.out_features = plain.in_features, plain.out_features
        n_bytes = int(plain.weight.numel() * weight_bytes)
        packed = torch.empty(n_bytes, dtype=torch.uint8, device=plain.weight.device)
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.bias = plain.bias
        self.compute_dtype = dtype

    def unpacked(self) -> torch.Tensor:
        """The weight (out, in) in the format that bitsandbytes unpacks it to, from 8 bits to float32."""
        shape = (self.out_features, self.in_features)
        is_wide = self.weight.numel() >= math.prod(shape)
        return _unpacked(self.weight, shape, torch.float32 if is_wide else self.compute_dtype)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Outputs of the right shape, in the number format of the inputs."""
        shape = (self.out_features, self.in_features)
        outputs: torch.Tensor = _Dequantised.apply(input.to(self.compute_dtype), self.weight, shape)  # type: ignore[no-untyped-call, unused-ignore]
        return outputs if self.bias is None else outputs + self.bias


def quantise_maps(
    module: nn.Module, bits: str | float, *, skipped: Iterable[str], dtype: torch.dtype = torch.bfloat16
) -> None:
    """Replace the linear maps of a model without weights by stand-ins in few bits, in place.

    Args:
        module: On the meta device.
        bits: `4bit` (NF4, constants quantised once more), `8bit`, or the bytes that one weight takes.
        skipped: Names of modules that stay as they are, with all that they hold: head and output layer.
        dtype: What the maps are multiplied in.
    """
    kept = tuple(skipped)
    weight_bytes = BYTES_PER_WEIGHT[bits] if isinstance(bits, str) else bits
    for name, child in list(module.named_modules()):
        is_kept = any(name == other or name.startswith(f"{other}.") for other in kept)
        if type(child) is nn.Linear and not is_kept:
            module.set_submodule(name, FewBitsLinear(child, weight_bytes, dtype=dtype))
