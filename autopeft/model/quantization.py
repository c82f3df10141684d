"""Quantized checkpoints, and plain ones that bitsandbytes quantizes."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
import transformers
from torch import nn
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.base import HfQuantizer
from transformers.quantizers.quantizers_utils import should_convert_module

from autopeft.errors import ModelError
from autopeft.model.linear_layers import is_quantized, linear_shape, n_bits, plain_weight
from autopeft.types import QUANTIZED

# Bytes per weight. NF4 with double quantization: half a byte, one byte per block of 64 weights, and
# one float32 per 256 such bytes (Dettmers et al. 2023, arXiv:2305.14314, section 3). LLM.int8: one byte, and
# one float32 per row, which is left out.
BYTES_PER_WEIGHT = {"4bit": 1 / 2 + 1 / 64 + 4 / (64 * 256), "8bit": 1.0}
_SINGLE_QUANT = 1 / 2 + 4 / 64  # 4 bits with scales in float32
_SCALE_BYTES = 2  # for the scale of a group of weights, in float16
_GROUPED = ("gptq", "awq")  # integers in groups, with a scale and a zero point of their own
_READ_PLAIN = "gguf"  # a file whose weights transformers reads in plain numbers
_LOADED_PLAIN = "mxfp4"  # dequantized on loading, since no gradient passes through its kernels
_FEW_EXPERTS = 0.05  # of all weights; fewer are not worth a note; heuristic
_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)


@dataclass(frozen=True, kw_only=True)
class StoredWeights:
    """The format in which a quantized checkpoint holds its linear layers."""

    method: str  # as transformers names it
    quantize: str = "none"  # `4bit` or `8bit` if it is of bitsandbytes
    weight_bytes: float | None = None  # of a weight; None if it is loaded, or counted, as a plain one
    skipped: tuple[str, ...] | None = None  # modules; None for those that transformers leaves out

    @property
    def is_loaded_plain(self) -> bool:
        """Whether the weights are dequantized when the model is loaded to be trained."""
        return self.method == _LOADED_PLAIN

    def kept_modules(self, module: nn.Module) -> tuple[str, ...]:
        """List the linear layers of a model that are not quantized."""
        patterns = HfQuantizer.get_modules_to_not_convert(
            module,
            None if self.skipped is None else list(self.skipped),
            getattr(module, "_keep_in_fp32_modules", None),
            add_default_skips=self.method == "awq",
        )
        layers = [name for name, child in module.named_modules() if isinstance(child, nn.Linear | Conv1D)]
        return tuple(name for name in layers if not should_convert_module(name, patterns))


def stored_weights(config: Any) -> StoredWeights | None:
    """Read the format of a quantized checkpoint from its config; None for plain weights."""
    settings = getattr(config, "quantization_config", None)
    if settings is None:
        return None
    settings = settings if isinstance(settings, dict) else settings.to_dict()
    quant_method = settings.get("quant_method")
    method = str(getattr(quant_method, "value", quant_method))
    skipped = settings.get("llm_int8_skip_modules") or settings.get("modules_to_not_convert")
    kept = None if skipped is None else tuple(skipped)
    if method == "bitsandbytes":
        quantize = "4bit" if settings.get("load_in_4bit") or settings.get("_load_in_4bit") else "8bit"
        is_single = quantize == "4bit" and not settings.get("bnb_4bit_use_double_quant")
        weight_bytes = _SINGLE_QUANT if is_single else BYTES_PER_WEIGHT[quantize]
        return StoredWeights(method=method, quantize=quantize, weight_bytes=weight_bytes, skipped=kept)
    if method in _GROUPED and settings.get("bits"):
        share, group = settings["bits"] / 8, settings.get("group_size") or 0
        weight_bytes = share + ((_SCALE_BYTES + share) / group if group > 0 else 0)
        return StoredWeights(method=method, weight_bytes=weight_bytes, skipped=kept)
    return StoredWeights(method=method, skipped=kept)


def require_plain_weights(config: Any, name: str) -> None:
    """Raise ModelError for a model that is quantized already."""
    stored = stored_weights(config)
    if stored is not None:
        raise ModelError(f"{name} is quantized already ({stored.method}); leave --quantize out.")


def dequantizing(config: Any) -> dict[str, Any]:
    """Return `from_pretrained`'s arguments that dequantize weights without gradients."""
    stored = stored_weights(config)
    if stored is None or not stored.is_loaded_plain:
        return {}
    return {"quantization_config": transformers.Mxfp4Config(dequantize=True)}


def require_trainable(module: nn.Module, name: str) -> None:
    """Raise ModelError for a model with quantized layers that pass no gradient."""
    quantizer = cast(Any, getattr(module, "hf_quantizer", None))
    if quantizer is None:
        return
    settings = quantizer.quantization_config
    method = str(getattr(settings.quant_method, "value", settings.quant_method))
    is_plain = method == _READ_PLAIN or getattr(settings, "dequantize", False)
    if not is_plain and not quantizer.is_trainable:
        raise ModelError(
            f"{name} is quantized ({method}) in a format that cannot be trained; pass --model with a "
            "checkpoint that is not quantized."
        )


def quantization_config(bits: str, skipped: Iterable[str], *, dtype: str) -> Any:
    """Make the config that quantizes all linear layers except the skipped modules to `4bit` or `8bit`.

    Skip the task head: `transformers` 5.24 would quantize a new one too, and leave it without weights. 4-bit
    layers are multiplied in `dtype`.
    """
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # its 8-bit layers warn at every step
    compute_dtype = {"bnb_4bit_compute_dtype": dtype} if bits == "4bit" else {}
    return transformers.BitsAndBytesConfig(
        **QUANTIZED[bits], **compute_dtype, llm_int8_skip_modules=list(dict.fromkeys(skipped))
    )


def plain_experts_note(module: nn.Module, bits: str, *, n_weights: int, dtype: str) -> str | None:
    """Describe the weights that stay plain in stacked experts; None if they are few of `n_weights`.

    `transformers` 5 holds all experts of a layer in one parameter; bitsandbytes replaces linear layers only.
    """
    n_left = expert_weights(module)
    if n_left < _FEW_EXPERTS * n_weights:
        return None
    return (
        f"--quantize {bits} leaves {n_left:,} of {n_weights:,} weights (experts in one parameter) in {dtype}."
    )


def expert_weights(module: nn.Module) -> int:
    """Count the weights in parameters that hold several matrices, one for each expert."""
    owners = [child for child in module.modules() if not isinstance(child, nn.modules.conv._ConvNd)]
    stacks = {id(p): p.numel() for owner in owners for p in owner.parameters(recurse=False) if p.ndim == 3}
    return sum(stacks.values())


def quantized_owners(module: nn.Module, parameter_names: Iterable[str]) -> tuple[str, ...]:
    """List the bitsandbytes layers that parameters of these names belong to."""
    owners = dict.fromkeys(name.rpartition(".")[0] for name in sorted(parameter_names))
    types = {name: type(module.get_submodule(name)) for name in owners}
    return tuple(name for name, kind in types.items() if kind.__module__.startswith("bitsandbytes."))


def widen_norms(module: nn.Module) -> None:
    """Convert torch's norms to float32; on a CPU they refuse inputs in a wider format."""
    for child in module.modules():
        if isinstance(child, _NORMS):
            child.float()


def unquantized_modules(module: nn.Module) -> tuple[str, ...]:
    """List the modules that were skipped when bitsandbytes quantized the model."""
    config = getattr(getattr(module, "config", None), "quantization_config", None)
    return tuple(getattr(config, "llm_int8_skip_modules", None) or ())


def stop_mutation(module: nn.Module, *, scales_gradients: bool = False) -> None:
    """Work around faults of bitsandbytes 0.50.2 and `peft` 0.21.2.

    - On CPUs with AVX-512 for bfloat16, a 4-bit layer repacks its weight, rounded, at its first evaluation,
      and no gradient passes through it any more. Its flag is turned off.
    - A 4-bit layer that computes in float16 loses gradients below 6e-8. It computes in float32 instead,
      unless the loop `scales_gradients` up, as it does for a model in float16.
    - The bias of a 4-bit layer takes on the compute dtype at the first call. It is cast beforehand.
    - The bias of an 8-bit layer takes on the type of its inputs at each call. A hook restores it.
    - On a CPU `peft` loses the scales of an 8-bit layer when it dequantizes it, as DoRA does at each step. A
      hook restores them.
    - A training 8-bit layer keeps its input for the gradient of its weight, which is frozen; checkpointing
      does not free it. A hook drops it.
    """
    for layer in (cast(Any, child) for child in module.modules() if n_bits(child)):
        bias = None if layer.bias is None else layer.bias.data
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False
        compute_dtype = getattr(layer, "compute_dtype", None)
        if compute_dtype is torch.float16 and not scales_gradients:
            layer.compute_dtype = compute_dtype = torch.float32
        if bias is not None and compute_dtype is not None:
            layer.bias.data = bias.to(compute_dtype)
        if n_bits(layer) == 8:
            layer.register_forward_pre_hook(_restore_scales)
            layer.register_forward_hook(partial(_restore_bias, bias))
            layer.register_forward_hook(_drop_input)


def _restore_scales(layer: Any, inputs: Any) -> None:
    if layer.weight.CB is not None and layer.weight.SCB is None:
        layer.weight.SCB = layer.state.SCB


def _restore_bias(bias: torch.Tensor | None, layer: Any, inputs: Any, output: Any) -> None:
    if bias is not None and layer.bias is not None:
        layer.bias.data = bias


def _drop_input(layer: Any, inputs: Any, output: Any) -> None:
    node = cast(Any, getattr(output, "grad_fn", None))
    name = type(node).__name__
    if name == "MatMul8bitLtBackward" and not node.is_empty:
        node.tensors = (None, None, None)
    elif name == "MatMul8bitFpBackward":
        node.A = None


@contextlib.contextmanager
def rows_independent(module: nn.Module) -> Iterator[None]:
    """Make 8-bit layers round each row by itself within a context, despite outliers."""
    states = [cast(Any, child).state for child in module.modules() if n_bits(child) == 8]
    thresholds = [(state, state.threshold) for state in states]
    for state in states:
        state.threshold = 0.0
    try:
        yield
    finally:
        for state, threshold in thresholds:
            state.threshold = threshold


def drop_weights(module: nn.Module) -> None:
    """Free the weights of a model, quantized ones too, for good; names, shapes and bits stay."""
    for child in module.modules():
        for name, parameter in child.named_parameters(recurse=False):
            empty = torch.empty_like(parameter.data, device="meta")
            setattr(child, name, torch.Tensor._make_subclass(type(parameter), empty, False))
        for name in ("quant_state", "state"):  # of 4-bit and 8-bit layers: scales, and the weight again
            if n_bits(child) and hasattr(child, name):
                setattr(child, name, None)


def conv1d_to_linear(module: nn.Module) -> None:
    """Replace GPT-2's Conv1D by linear layers, as bitsandbytes does, without weights."""
    for name, child in list(module.named_modules()):
        if isinstance(child, Conv1D):
            n_in, n_out = child.weight.shape
            linear = nn.Linear(n_in, n_out, bias=child.bias is not None, device=child.weight.device)
            module.set_submodule(name, linear)


def dequantize(module: nn.Module, *, device: str | None = None, dtype: torch.dtype = torch.float32) -> None:
    """Replace bitsandbytes layers in place by plain ones with the same weights."""
    for name, child in list(module.named_modules()):
        if not n_bits(child):
            continue
        _, n_in, n_out = cast("tuple[str, int, int]", linear_shape(child))
        weight = cast(torch.Tensor, plain_weight(child)).to(device).to(dtype)
        plain: Any
        if getattr(child, "source_cls", nn.Linear) is Conv1D:
            plain, weight = Conv1D(n_out, n_in), weight.T.contiguous()
        else:
            plain = nn.Linear(n_in, n_out, bias=child.bias is not None)
        plain.weight = nn.Parameter(weight, requires_grad=False)
        if child.bias is not None:
            bias = cast(torch.Tensor, child.bias).to(device).to(dtype)
            plain.bias = nn.Parameter(bias, requires_grad=False)
        module.set_submodule(name, plain.train(child.training))
    quantizer = cast(Any, getattr(module, "hf_quantizer", None))
    if quantizer is not None and not any(map(is_quantized, module.modules())):  # GGUF has one too
        quantizer.remove_quantization_config(module)
    for flag in ("is_loaded_in_4bit", "is_loaded_in_8bit"):  # peft chooses its layers by these
        if hasattr(module, flag):
            delattr(module, flag)
