"""Replaces layers of `peft` by ones that compute the same with less memory or time."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any, cast

import torch
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.dora import DoraLinearLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from autopeft.model.linear_layers import is_quantized, linear_shape, n_bits, plain_weight


def lighten(model: nn.Module) -> None:
    """Change layers of DoRA and HiRA in place, so that they keep less for the backward pass."""
    for module in model.modules():
        if type(module) is DoraLinearLayer:  # its subclasses have products of their own
            vars(module)["get_lora_weight"] = _product_of_dora
        elif hasattr(module, "hira_A") and linear_shape(cast(Any, module).get_base_layer()):
            module.__class__ = _light_class(cast(Any, type(module)))


def leave_casts_to_autocast(model: nn.Module) -> None:
    """Stop `peft` from casting LoRA's inputs to float32, which autocast would cast back.

    The two copies take an eighth of a step of MiniLM-L6 on a CPU.
    """
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.cast_input_dtype_enabled = False


def keep_format(model: nn.Module, dtype: torch.dtype) -> None:
    """Make adapters return the format that a quantized base model computes in.

    Under autocast IA3, RoAd and tuned norms of `peft` 0.21.2 return float32, and so would all later quantized
    layers: a 4-bit Llama of 6 layers would keep 27 to 54 % more.
    """

    def narrowed(module: nn.Module, inputs: Any, output: Any) -> Any:
        is_wide = isinstance(output, torch.Tensor) and output.dtype == torch.float32
        return output.to(dtype) if is_wide else output

    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            module.register_forward_hook(narrowed)


class LightHira:
    """HiRA that computes its update W * (B A) again for the backward pass.

    `peft` 0.21.2 keeps W * (B A), which is as large as the frozen weight (31 % more for 512 tokens of a Llama
    of 6 layers), and of a quantized layer the unpacked weight too. Without gradients `peft`'s own forward
    runs: predictions are the same to the last bit wherever the adapter is loaded.
    """

    def forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Compute what `peft` does; leave all but one adapter on a frozen layer to it."""
        name = _only_adapter(self) if torch.is_grad_enabled() and not (args or kwargs) else None
        if name is None:
            return cast(Tensor, super().forward(x, *args, **kwargs))  # type: ignore[misc]
        base, a, b = self.get_base_layer(), self.hira_A[name], self.hira_B[name]

        def frozen() -> Tensor:
            """Return the weight (out, in); a quantized layer unpacks it."""
            weight = cast(Tensor, getattr(base, "unpacked", partial(plain_weight, base))())
            return weight.T if self.fan_in_fan_out else weight

        hooks = (base._forward_pre_hooks, base._forward_hooks, base._backward_pre_hooks, base._backward_hooks)
        # The layer is only a product with its weight: no hook changes it, and nothing replaced its forward.
        is_plain = type(base) in (nn.Linear, Conv1D) and not any(hooks) and "forward" not in vars(base)
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        elif not (is_plain and x.dtype == base.weight.dtype == a.dtype == torch.float32):
            return cast(Tensor, super().forward(x))  # type: ignore[misc]
        if is_plain:
            return cast(Tensor, _Hira.apply(x, a, b, base.bias, frozen, True))  # type: ignore[no-untyped-call]
        return cast(Tensor, base(x) + _Hira.apply(x, a, b, None, frozen, False))  # type: ignore[no-untyped-call]


@cache
def _light_class(kind: type[nn.Module]) -> type[nn.Module]:
    """Return the subclass of a HiRA layer's class that has the forward of `LightHira`."""
    return kind if issubclass(kind, LightHira) else type(f"Light{kind.__name__}", (LightHira, kind), {})


def _only_adapter(layer: Any) -> str | None:
    """Return the active adapter if it is the only one, without dropout, on a frozen weight."""
    held, base = [name for name in layer.active_adapters if name in layer.hira_A], layer.get_base_layer()
    is_around_another = layer.base_layer is not base
    if layer.disable_adapters or layer.merged or len(held) != 1 or is_around_another:
        return None
    has_weight = not is_quantized(base) or n_bits(base) or hasattr(base, "unpacked")
    is_alone = isinstance(layer.hira_dropout[held[0]], nn.Identity) and not base.weight.requires_grad
    return held[0] if has_weight and is_alone else None


class _Hira(torch.autograd.Function):
    """Multiplies x (..., in) by W * (B A), or by W * (1 + B A) with the layer's bias.

    `a` A is (rank, in) and `b` B (out, rank); `frozen` returns W (out, in); `adds_one` adds the one. Only x,
    A and B are kept. In 16 bits W + W * (B A) loses updates below the last bit of W, so the outputs are the
    sum of two products there. The gradient of x is one product with W + W * (B A): with 1 + B A it would be
    0.3 % too small in 16 bits, since numbers below 1 lie closer together than those above 1.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        a: Tensor,
        b: Tensor,
        bias: Tensor | None,
        frozen: Callable[[], Tensor],
        adds_one: bool,
    ) -> Tensor:
        ctx.save_for_backward(x, a, b)
        ctx.frozen, ctx.adds_one = frozen, adds_one
        ctx.bias_dtype = None if bias is None else bias.dtype
        with torch.autocast(x.device.type, enabled=False):
            weight = frozen()
            update = (b.to(x.dtype) @ a.to(x.dtype)).mul_(weight)
            bias = None if bias is None else bias.to(x.dtype)
            try:
                keeps_all_bits = torch.get_float32_matmul_precision() == "highest"  # no TF32, no bfloat16
            except RuntimeError:  # the precision is set for each backend
                keeps_all_bits = False
            if adds_one and x.dtype == torch.float32 and keeps_all_bits:
                return F.linear(x, update.add_(weight), bias)
            outputs = F.linear(x, update)
            return outputs.add_(F.linear(x, weight.to(x.dtype), bias)) if adds_one else outputs

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, a, b = ctx.saved_tensors
        of_x, of_a, of_b, of_bias, *_ = ctx.needs_input_grad
        to_x = to_a = to_b = None
        rows = grad.reshape(-1, grad.shape[-1])
        with torch.autocast(x.device.type, enabled=False):
            weight, narrow_a, narrow_b = ctx.frozen(), a.to(x.dtype), b.to(x.dtype)
            if of_x:
                update = (narrow_b @ narrow_a).mul_(weight)
                to_x = grad @ (update.add_(weight) if ctx.adds_one else update)
            if of_a or of_b:
                # The gradient of the whole weight times W is that of B A.
                product = (rows.T @ x.reshape(-1, x.shape[-1])).mul_(weight)
                to_a, to_b = (narrow_b.T @ product).to(a.dtype), (product @ narrow_a.T).to(b.dtype)
            to_bias = rows.sum(0).to(ctx.bias_dtype) if of_bias else None
        return to_x, to_a, to_b, to_bias, None, None


@torch.no_grad()
def _product_of_dora(*, adapter_name: str | None = None, **layers: nn.Linear) -> Tensor:
    """Multiply B by A for the norms of DoRA's weights, keeping nothing.

    `peft` 0.21.2 sends an identity matrix through both: 0.8 GB at every call for a layer of 14,336 inputs.
    The weights are detached, since torch before 2.10 would reuse casts without a graph for the layer itself,
    and nothing would learn (pytorch issue 158232).
    """
    return layers["lora_B"].weight.detach() @ layers["lora_A"].weight.detach()
