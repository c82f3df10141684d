"""Fake tensors for a model: they have shapes and number formats, pretend to be on a CPU, and hold no values.

Quantized linear layers have stand-ins, since bitsandbytes has no tensors without memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

_DEVICE = torch.device("cpu")  # autocast and fused attention know it, and do not know the meta device
_IS_FALSE = "_autopeft_is_false"  # marks an answer about many values
_ATEN = torch.ops.aten
_ONE = torch.ones(())
_INDEXING = (_ATEN.index.Tensor, _ATEN.index_put.default, _ATEN.index_put_.default)


def make_fake(module: nn.Module, mode: FakeTensorMode) -> None:
    """Replace parameters and buffers on the meta device by fake tensors in place; ties stay."""
    fakes: dict[int, nn.Parameter] = {}
    for child in module.modules():
        for name, parameter in child._parameters.items():
            if parameter is not None:
                if id(parameter) not in fakes:
                    fake = _fake(parameter.data, mode)
                    fakes[id(parameter)] = nn.Parameter(fake, requires_grad=parameter.requires_grad)
                child._parameters[name] = fakes[id(parameter)]
        for name, buffer in child._buffers.items():
            if buffer is not None:
                child._buffers[name] = _fake(buffer, mode)


def _fake(tensor: torch.Tensor, mode: FakeTensorMode) -> torch.Tensor:
    constant = None if tensor.is_meta else tensor
    fake: torch.Tensor = FakeTensor(mode, tensor.to("meta"), _DEVICE, constant=constant)
    return fake


class StandInValues(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A context in which reading a value of a fake tensor returns a stand-in.

    1. A number is 1 and a truth value is True. A single random number is 1, so that LayerDrop drops no layer.
    2. `all` and `any` are False: a mask has padding, and no value is infinite.
    3. A mask selects every element; a mask of `mask_size` elements selects `n_true`.

    With `attaching`, tensors on the meta device stay there when code asks for a copy on the CPU.
    """

    def __init__(self, *, attaching: bool = False, mask_size: int = 0, n_true: int = 0) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._attaching = attaching
        self._mask_size, self._n_true = mask_size, n_true

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        options = dict(kwargs or {})
        if func is _ATEN._local_scalar_dense.default and _has_no_values(args[0]):
            return _scalar(args[0])
        if func is _ATEN.nonzero.default and _has_no_values(args[0]):
            return args[0].new_empty((self._n_selected(args[0]), args[0].ndim), dtype=torch.long)
        if func is _ATEN.rand.default and not args[0]:  # LayerDrop drops a layer if the number is small
            drawn = func(*args, **options)
            drawn.constant = _ONE
            return drawn
        if func is _ATEN.bincount.default and _has_no_values(args[0]):
            return args[0].new_zeros(options.get("minlength", 0))
        if func is _ATEN._grouped_mm.default:  # its kernel for fake tensors knows bfloat16 alone
            result = func(*(each.bfloat16() for each in args[:2]), *args[2:], **options)
            return result.to(args[0].dtype)
        if self._attaching and func is _ATEN._to_copy.default:
            options.pop("device", None)  # peft decomposes weights on the CPU, wherever they are
        if func in _INDEXING:
            args = (args[0], self._without_masks(args[1]), *args[2:])
        result = func(*args, **options)
        if func in (_ATEN.all.default, _ATEN.any.default):
            setattr(result, _IS_FALSE, True)
        return result

    def _n_selected(self, mask: torch.Tensor) -> int:
        return self._n_true if mask.numel() == self._mask_size else mask.numel()

    def _without_masks(self, indices: Sequence[torch.Tensor | None]) -> list[torch.Tensor | None]:
        """Replace each mask in the indices by tensors of positions, one for each of the mask's dimensions."""
        numbers: list[torch.Tensor | None] = []
        for index in indices:
            if index is not None and index.dtype == torch.bool and _has_no_values(index):
                shape = (self._n_selected(index),)
                numbers += [index.new_empty(shape, dtype=torch.long) for _ in range(index.ndim)]
            else:
                numbers.append(index)
        return numbers


def _has_no_values(tensor: torch.Tensor) -> bool:
    return tensor.is_meta or isinstance(tensor, FakeTensor)


def _scalar(tensor: torch.Tensor) -> bool | int | float:
    constant = getattr(tensor, "constant", None)
    if constant is not None:
        return constant.item()  # type: ignore[no-any-return]
    if tensor.dtype == torch.bool:
        return not getattr(tensor, _IS_FALSE, False)
    return 1.0 if tensor.is_floating_point() else 1


class _Dequantized(torch.autograd.Function):
    """A product with a packed weight, unpacked once forward and once backward, as bitsandbytes does."""

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
    return packed.new_zeros(shape, dtype=dtype)  # a kernel that reads the packed weight and writes this one


class QuantizedLinear(nn.Linear):
    """A linear layer with a quantized weight without values; only its memory is right."""

    def __init__(self, plain: nn.Linear, weight_bytes: float, *, dtype: torch.dtype) -> None:
        """Replace a plain linear layer; products are computed in `dtype`."""
        super().__init__(1, 1, bias=False, device="meta")
        self.in_features, self.out_features = plain.in_features, plain.out_features
        n_bytes = int(plain.weight.numel() * weight_bytes)
        packed = torch.empty(n_bytes, dtype=torch.uint8, device=plain.weight.device)
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.bias = plain.bias
        self.compute_dtype = dtype

    def unpacked(self) -> torch.Tensor:
        """Return a tensor like the unpacked weight (out, in); bitsandbytes unpacks 8 bits to float32."""
        shape = (self.out_features, self.in_features)
        is_wide = self.weight.numel() >= math.prod(shape)
        return _unpacked(self.weight, shape, torch.float32 if is_wide else self.compute_dtype)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return outputs of the right shape."""
        shape = (self.out_features, self.in_features)
        outputs: torch.Tensor = _Dequantized.apply(input.to(self.compute_dtype), self.weight, shape)  # type: ignore[no-untyped-call, unused-ignore]
        return outputs if self.bias is None else outputs + self.bias


def quantize_linear_layers(
    module: nn.Module, weight_bytes: float, *, skipped: Sequence[str], dtype: torch.dtype = torch.bfloat16
) -> None:
    """Replace linear layers, but those in the modules `skipped`, by stand-ins of so many bytes."""
    for name, child in list(module.named_modules()):
        is_plain = any(name == plain or name.startswith(f"{plain}.") for plain in skipped)
        if type(child) is nn.Linear and not is_plain:
            module.set_submodule(name, QuantizedLinear(child, weight_bytes, dtype=dtype))
