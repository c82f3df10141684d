"""Layers of `peft` that compute the same with less memory or time."""

from __future__ import annotations

from typing import Any, cast

import torch
from peft.tuners.fourierft.layer import FourierFTLayer
from peft.tuners.hira import layer as hira
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.dora import DoraLinearLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D


def lighten(model: nn.Module) -> None:
    """Let DoRA, FourierFT and HiRA keep less for the backward pass, and copy less."""
    for module in model.modules():
        if isinstance(module, FourierFTLayer):
            _place_frequencies(module)
        elif type(module) is DoraLinearLayer:  # those of other kinds of layers multiply by themselves
            vars(module)["get_lora_weight"] = _product_of_dora
        elif type(module) is hira.Linear and type(cast(Any, module).get_base_layer()) in (nn.Linear, Conv1D):
            module.__class__ = LightHira


def leave_casts_to_autocast(model: nn.Module) -> None:
    """Let LoRA take its inputs in the format of the base model, for a model that runs under autocast.

    `peft` casts them to float32, and autocast casts them back before the product: two copies for the same
    bits, an eighth of a step of MiniLM-L6 on a CPU.
    """
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.cast_input_dtype_enabled = False


def keep_format(model: nn.Module, dtype: torch.dtype) -> None:
    """Let adapters on maps in few bits return the format that the base model computes in.

    On a GPU under autocast `peft` 0.21.2 leaves what IA3, RoAd and tuned norms return in float32. Those maps
    return the format of their inputs, so that all later layers would keep twice as much.
    """

    def narrowed(module: nn.Module, inputs: Any, output: Any) -> Any:
        is_wide = isinstance(output, torch.Tensor) and output.dtype == torch.float32
        return output.to(dtype) if is_wide else output

    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            module.register_forward_hook(narrowed)


class LightHira(hira.Linear):  # type: ignore[misc]
    """HiRA that makes its update W * (B A) anew for the backward pass instead of keeping it for every map.

    `peft` 0.21.2 keeps B A and W * (B A), each as large as the frozen weight, and multiplies by the map and
    by its update one after the other, forwards and backwards. Without gradients all is left to `peft`, so
    that predictions are the same to the last bit wherever the adapter is loaded.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """As `peft` does; to it is left whatever is more than one adapter on a map of its own."""
        name = None if args or kwargs or not torch.is_grad_enabled() else self._only_adapter()
        if name is not None:
            base, a, b = self.get_base_layer(), self.hira_A[name], self.hira_B[name]
            weight = base.weight.T if self.fan_in_fan_out else base.weight
            if torch.is_autocast_enabled(x.device.type):
                x = x.to(torch.get_autocast_dtype(x.device.type))
                return _adapted(x, weight, a, b, base.bias)
            if x.dtype == weight.dtype == a.dtype == torch.float32:
                return _adapted(x, weight, a, b, base.bias)
        return cast(Tensor, super().forward(x, *args, **kwargs))

    def _only_adapter(self) -> str | None:
        """The adapter in use, if it is one without dropout on a frozen map that nothing else watches."""
        held = [name for name in self.active_adapters if name in self.hira_A]
        if self.disable_adapters or self.merged or len(held) != 1:
            return None
        base = self.get_base_layer()
        is_plain = isinstance(self.hira_dropout[held[0]], nn.Identity) and not base.weight.requires_grad
        return held[0] if is_plain and not _is_hooked(base) else None


def _is_hooked(module: nn.Module) -> bool:
    """Whether other code does something before, after or instead of the module's forward."""
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))


def _adapted(*given: Tensor | None) -> Tensor:
    """`_Hira`, with a type for mypy."""
    return cast(Tensor, _Hira.apply(*given))  # type: ignore[no-untyped-call]


class _Hira(torch.autograd.Function):
    """x (..., in) by W * (1 + B A) with the map's bias (out), in the format of x; it keeps its inputs alone.

    `weight` W is (out, in) and frozen, `a` A (rank, in) and `b` B (out, rank). In 16 bits the sum would round
    small updates away, so that the map and its update are multiplied one by one there; a gradient is rounded
    as much in any case.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight, a, b)
        ctx.bias_dtype = None if bias is None else bias.dtype
        with torch.autocast(x.device.type, enabled=False):
            bias = None if bias is None else bias.to(x.dtype)
            product = b.to(x.dtype) @ a.to(x.dtype)
            if x.dtype == torch.float32:
                return F.linear(x, product.add_(1.0).mul_(weight), bias)
            return F.linear(x, weight.to(x.dtype), bias).add_(F.linear(x, product.mul_(weight)))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, a, b = ctx.saved_tensors
        of_x, _, of_a, of_b, of_bias = ctx.needs_input_grad
        to_x = to_a = to_b = None
        rows = grad.reshape(-1, grad.shape[-1])
        narrow_a, narrow_b = a.to(x.dtype), b.to(x.dtype)
        with torch.autocast(x.device.type, enabled=False):
            if of_x:
                to_x = grad @ (narrow_b @ narrow_a).add_(1.0).mul_(weight)
            if of_a or of_b:
                # The gradient of the whole weight times W is that of B A.
                product = (rows.T @ x.reshape(-1, x.shape[-1])).mul_(weight)
                to_a, to_b = (narrow_b.T @ product).to(a.dtype), (product @ narrow_a.T).to(b.dtype)
            to_bias = rows.sum(0).to(ctx.bias_dtype) if of_bias else None
        return to_x, None, to_a, to_b, to_bias


def _place_frequencies(layer: FourierFTLayer) -> None:
    """Put FourierFT's frequencies where its weights are; `peft` 0.21.2 copies them to a GPU at every call."""
    for name, weights in layer.fourierft_spectrum.items():
        if weights.device.type != "meta":  # there a replay needs them as they are
            layer.indices[name] = layer.indices[name].to(weights.device)


@torch.no_grad()
def _product_of_dora(*, adapter_name: str | None = None, **maps: nn.Linear) -> Tensor:
    """B A for the norms of DoRA's weights, of which nothing is kept.

    `peft` 0.21.2 sends an identity matrix through both, to suit FSDP: at every call, 0.8 GB for a map of
    14,336 inputs, and kept for a backward pass that the norms do not have. The weights are detached: until
    2.10 torch takes casts that were made without a graph for the layer's own ones too, and nothing would
    learn (pytorch issue 158232).
    """
    return maps["lora_B"].weight.detach() @ maps["lora_A"].weight.detach()
