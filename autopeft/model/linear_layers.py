"""Reads shape, weight and role of linear layers, quantized or not."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median_low
from typing import Any, cast

import torch
from peft.utils.integrations import dequantize_bnb_weight
from torch import nn
from transformers.pytorch_utils import Conv1D

from autopeft.types import ROLE_GROUPS, Target
from autopeft.types.plans import LAYER

# Attributes that hold packed weights: of GPTQ and AWQ, HQQ, AQLM. None of these modules is an nn.Linear.
_PACKED = ("qweight", "W_q", "codes")
_BITS = {"Params4bit": 4, "Int8Params": 8}  # bitsandbytes' parameter classes
_PLAIN_TYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_WIDTHS = ("hidden_size", "d_model", "n_embd", "dim")  # what the configs of transformers call the hidden size


def linear_shape(module: nn.Module) -> tuple[str, int, int] | None:
    """Return kind, inputs and outputs of a linear layer; None for any other module."""
    if isinstance(module, Conv1D):
        n_in, n_out = module.weight.shape
        return "conv1d", n_in, n_out
    # bitsandbytes, torchao and fp8 keep nn.Linear as the base class, whatever they store.
    if isinstance(module, nn.Linear) or any(hasattr(module, name) for name in _PACKED):
        n_in, n_out = (getattr(module, name, None) for name in ("in_features", "out_features"))
        if isinstance(n_in, int) and isinstance(n_out, int):
            return "linear", n_in, n_out
    return None


def output_layer_names(model: nn.Module) -> tuple[str, ...]:
    """Return the name of a language model's output layer; empty for other models."""
    layer = cast(Any, getattr(model, "get_output_embeddings", lambda: None))()
    return tuple(name for name, child in model.named_modules() if child is layer)


def is_quantized(module: nn.Module) -> bool:
    """Return whether a module is a linear layer that does not store one float per weight."""
    return linear_shape(module) is not None and not _is_plain(module)


def n_bits(module: nn.Module) -> int:
    """Return 4 or 8 for a linear layer that bitsandbytes quantized to that many bits, else 0."""
    return _BITS.get(type(getattr(module, "weight", None)).__name__, 0) if linear_shape(module) else 0


def plain_weight(module: nn.Module) -> torch.Tensor | None:
    """Return a module's weight in floats; bitsandbytes is dequantized, shape (out, in).

    None if the module has no weight, or if another quantizer packed it.
    """
    weight = cast(Any, getattr(module, "weight", None))
    if n_bits(module):
        dequantized: torch.Tensor = dequantize_bnb_weight(weight, state=getattr(module, "state", None))
        return dequantized
    return weight if _is_plain(module) else None


def n_params(module: nn.Module) -> int:
    """Count parameters as they were before quantization; tied weights count once.

    A packed layer counts in × out and its bias, without scales and zero points: it holds several weights in
    one number, which GPTQ and AWQ keep in a buffer.
    """
    sizes: dict[int, int] = {}
    for child in module.modules():
        if _is_packed(child):
            _, n_in, n_out = cast("tuple[str, int, int]", linear_shape(child))
            has_bias = getattr(child, "bias", None) is not None
            sizes[id(child)] = n_in * n_out + (n_out if has_bias else 0)
        else:
            for parameter in child.parameters(recurse=False):
                # bitsandbytes packs experts in one parameter without a layer, and records their shape here.
                shape = getattr(getattr(parameter, "quant_state", None), "shape", None)
                sizes[id(parameter)] = parameter.numel() if shape is None else math.prod(shape)
    return sum(sizes.values())


def _is_plain(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, torch.Tensor) and weight.dtype in _PLAIN_TYPES and not _is_packed(module)


def _is_packed(module: nn.Module) -> bool:
    shape, weight = linear_shape(module), getattr(module, "weight", None)
    n_stored = weight.numel() if isinstance(weight, torch.Tensor) else 0
    return shape is not None and n_stored != shape[1] * shape[2]


def hidden_size(config: Any, targets: Sequence[Target]) -> int:
    """Return the hidden size of the config, or else of the target modules.

    1. If the config names several, as for text and images, most target modules have it as inputs; the larger
        on ties.
    2. If the config names none, it is the median of the target modules' inputs; 0 without target modules.
    """
    inputs = Counter(target.in_features for target in targets)
    widths: set[int] = set()  # one of each sub-config; Swin's is that of its last stage
    for each in (config, *(getattr(config, name, None) for name in getattr(config, "sub_configs", {}))):
        sizes = (getattr(each, name, None) for name in _WIDTHS)
        widths.update([size for size in sizes if isinstance(size, int) and size > 0][:1])
    if widths:
        return max(widths, key=lambda width: (inputs[width], width))
    return median_low(inputs.elements()) if inputs else 0


# Usual ends of names: the last component, or the last two if several roles share the last one.
_ROLE_ENDINGS: Mapping[str, str] = {
    "q": "query q_proj q_lin query_proj q q_a_proj q_b_proj projection_query q_head Wq project_q",
    "k": "key k_proj k_lin key_proj k projection_key k_head Wk project_k",
    "v": "value v_proj v_lin value_proj v projection_value v_head Wv project_v v_proj_current v_proj_delayed",
    "kv": "kv_a_proj_with_mqa kv_b_proj kv_proj",
    "pos_q": "pos_q_proj pos_query_proj",
    "pos_k": "pos_proj pos_key_proj",
    "qkv": "c_attn query_key_value qkv_proj Wqkv qkv self.in_proj queries_keys_values",
    "o": "o_proj o_a_proj o_b_proj out_proj out_lin o attn.Wo attn.c_proj attention.dense "
    "self_attention.dense self_attn.dense multi_head_attention.dense attention.output self_attn.output "
    "attn.proj attention.proj post_proj attention_out",
    "gate": "gate_proj wi_0 w1 fc1_g",
    "up": "up_proj fc1 c_fc lin1 wi wi_1 w3 dense_h_to_4h intermediate.dense fc_in feed_forward.key "
    "ffn fc1_x",
    "gate_up": "gate_up_proj Wi shared_mlp.input_linear",
    "down": "down_proj fc2 lin2 wo w2 dense_4h_to_h mlp.c_proj mlp.Wo fc_out shared_mlp.output_linear "
    "feed_forward.value ffn_output",
    "router": "block_sparse_moe.gate shared_expert_gate",
}
# A router, and the layers that some consist of: `router.proj`, `mlp.gate.wg`.
_ROUTER = re.compile(r"(?:^|\.)(?:router|router_mlp|mlp\.gate)(?:\.|$)")
_ATTENTION = re.compile(r"(?:attn|attention|self_att)\.", re.IGNORECASE)
# Components of names of linear layers that do not belong to a feed-forward, whatever their shape: of state
# spaces and linear attention, inputs per layer (Gemma), layers between stages, and adapters and positions
# inside of other modules.
_NO_FEED_FORWARD = frozenset(
    "in_proj in_proj_qkv in_proj_qkvz in_proj_z in_proj_a in_proj_b in_proj_ba x_proj dt_proj "
    "igate_preact fgate_preact per_layer_input_gate per_layer_projection altup laurel bottleneck "
    "conv_kernel_layer conv_out_layer projection_in projection_out gate_up_proj_adapter_list "
    "relative_pos_embeddings continuous_position_bias_mlp downsample".split()
)


def role_of(name: str, n_in: int, n_out: int) -> str:
    """Return the role of a linear layer by name and shape, such as `q`; else `dense`."""
    role = role_by_name(name)
    if _ATTENTION.search(name) and role in (None, *ROLE_GROUPS["mlp"]):
        return "dense"  # such as a gate on the outputs of the heads
    if role is not None:
        return role
    if LAYER.search(name) is None or n_in == n_out or not _NO_FEED_FORWARD.isdisjoint(name.split(".")):
        return "dense"
    return "up" if n_out > n_in else "down"


def role_by_name(name: str) -> str | None:
    """Return a role by the usual names; BERT's `output.dense` is o in attention, else down."""
    if _ROUTER.search(name):
        return "router"
    path = name.removesuffix(".linear").split(".")  # some models wrap each layer: `q_proj.linear`
    ends = (".".join(path[-2:]), path[-1])  # the longer one decides: RWKV's `feed_forward.key` is up
    roles = (role for end in ends for role, endings in _ROLE_ENDINGS.items() if end in endings.split())
    role = next(roles, None)
    if role is None and name.endswith("output.dense"):
        return "o" if "attention" in name else "down"
    return role
