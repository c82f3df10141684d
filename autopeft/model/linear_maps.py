"""Linear maps: their shape and weight, quantised or not, and their role in a layer."""

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

from autopeft.records import ROLE_GROUPS, Site
from autopeft.records.roles import LAYER

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


# One table per family: end of a module's name -> its role. The longest end that fits decides.
_DEBERTA = {"attention.output.dense": "o", "intermediate.dense": "up", "output.dense": "down"}
_BERT = {"query": "q", "key": "k", "value": "v", **_DEBERTA}
_SPLIT = {"q_proj": "q", "k_proj": "k", "v_proj": "v"}
_LLAMA = {**_SPLIT, "o_proj": "o", "gate_proj": "gate", "up_proj": "up", "down_proj": "down"}
_LLAMA |= {"gate_up_proj": "gate_up", "mlp.gate": "router", "mlp.router": "router"}
_FUSED = {"query_key_value": "qkv", "attention.dense": "o", "self_attention.dense": "o"}
_FUSED |= {"dense_h_to_4h": "up", "dense_4h_to_h": "down"}
_BART = {**_SPLIT, "out_proj": "o", "fc1": "up", "fc2": "down"}
_VIT = {**_SPLIT, "o_proj": "o", "fc1": "up", "fc2": "down"}
_SINGLE_FAMILIES: Mapping[str, Mapping[str, str]] = {
    "distilbert": {"q_lin": "q", "k_lin": "k", "v_lin": "v", "out_lin": "o", "lin1": "up", "lin2": "down"},
    "albert": {**_BERT, "attention.dense": "o", "ffn": "up", "ffn_output": "down"},
    # The maps that make keys and queries of relative positions are none of the text's: pos_k and pos_q.
    "deberta": {**_DEBERTA, "in_proj": "qkv", "pos_proj": "pos_k", "pos_q_proj": "pos_q"},
    "deberta-v2": {
        **_DEBERTA,
        "query_proj": "q",
        "key_proj": "k",
        "value_proj": "v",
        "pos_key_proj": "pos_k",
        "pos_query_proj": "pos_q",
    },
    "mpnet": {"attn.q": "q", "attn.k": "k", "attn.v": "v", "attn.o": "o", **_DEBERTA},
    "modernbert": {"Wqkv": "qkv", "attn.Wo": "o", "mlp.Wi": "gate_up", "mlp.Wo": "down"},
    "gpt2": {"attn.c_attn": "qkv", "attn.c_proj": "o", "mlp.c_fc": "up", "mlp.c_proj": "down"},
    "gpt_neo": {**_SPLIT, "out_proj": "o", "c_fc": "up", "c_proj": "down"},
    "gptj": {**_SPLIT, "out_proj": "o", "fc_in": "up", "fc_out": "down"},
    "phi": {**_SPLIT, "self_attn.dense": "o", "fc1": "up", "fc2": "down"},
    "phi3": {"qkv_proj": "qkv", "o_proj": "o", "gate_up_proj": "gate_up", "down_proj": "down"},
    "t5": {"q": "q", "k": "k", "v": "v", "o": "o", "wi": "up", "wi_0": "gate", "wi_1": "up", "wo": "down"},
}
FAMILIES: Mapping[str, Mapping[str, str]] = {
    **_SINGLE_FAMILIES,
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "camembert", "electra", "ernie"), _BERT),
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "smollm3", "gemma", "gemma2"), _LLAMA),
    **dict.fromkeys(("gemma3_text", "olmo2", "granite", "mixtral", "qwen2_moe", "qwen3_moe"), _LLAMA),
    **dict.fromkeys(("gpt_neox", "bloom", "falcon"), _FUSED),
    **dict.fromkeys(("bart", "mbart", "marian", "pegasus", "opt", "clip", "siglip"), _BART),
    **dict.fromkeys(("mt5", "umt5"), _SINGLE_FAMILIES["t5"]),
    **dict.fromkeys(("vit", "deit", "beit", "dinov2"), _VIT),
    "swin": {**_VIT, "downsample.reduction": "dense"},
    "timm_wrapper": {"downsample.reduction": "dense", "fc1_g": "gate", "fc1_x": "up"},
}

# Usual ends of names: the last part, or the last two parts where several roles share the last one.
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
    "gate": "gate_proj wi_0 w1",
    "up": "up_proj fc1 c_fc lin1 wi wi_1 w3 dense_h_to_4h intermediate.dense fc_in feed_forward.key",
    "gate_up": "gate_up_proj Wi shared_mlp.input_linear",
    "down": "down_proj fc2 lin2 wo w2 dense_4h_to_h mlp.c_proj mlp.Wo fc_out shared_mlp.output_linear "
    "feed_forward.value",
    "router": "block_sparse_moe.gate shared_expert_gate",
}
# A router, and the maps that some are made of: `router.proj`, `mlp.gate.wg`.
_ROUTER = re.compile(r"(?:^|\.)(?:router|router_mlp|mlp\.gate)(?:\.|$)")
_ATTENTION = re.compile(r"(?:attn|attention|self_att)\.", re.IGNORECASE)
# Parts of the names of maps in a layer that are none of its feed-forward, whatever their shape: of state
# spaces and linear attention, inputs per layer (Gemma), and adapters and positions inside of other maps.
_NO_FEED_FORWARD = frozenset(
    "in_proj in_proj_qkv in_proj_qkvz in_proj_z in_proj_a in_proj_b in_proj_ba x_proj dt_proj "
    "igate_preact fgate_preact per_layer_input_gate per_layer_projection altup laurel bottleneck "
    "conv_kernel_layer conv_out_layer projection_in projection_out gate_up_proj_adapter_list "
    "relative_pos_embeddings continuous_position_bias_mlp".split()
)


def role_of(name: str, n_in: int, n_out: int, *, family: str = "") -> str:
    """The role of a linear map, such as `q` or `up`; `dense` where neither name nor shape tells it.

    `family` is the `model_type` of the model's config. Without a table for it, name and shape decide.

    Example:
        >>> role_of("model.layers.0.self_attn.dense", 16, 16, family="phi")
        'o'
        >>> role_of("h.0.mixer.expand", 16, 64), role_of("h.0.mixer.in_proj", 16, 64)
        ('up', 'dense')
    """
    is_in_layer = LAYER.search(name) is not None
    ends = [end for end in FAMILIES.get(family, ()) if is_in_layer and f".{name}".endswith(f".{end}")]
    role = FAMILIES[family][max(ends, key=len)] if ends else known_role(name)
    if _ATTENTION.search(name) and role in (None, *ROLE_GROUPS["mlp"]):
        return "dense"  # such as a gate on what the heads give
    if role is not None:
        return role
    if not is_in_layer or n_in == n_out or not _NO_FEED_FORWARD.isdisjoint(name.split(".")):
        return "dense"
    return "up" if n_out > n_in else "down"


def known_role(name: str) -> str | None:
    """The role by the usual names; BERT's `output.dense` is o inside of attention and down elsewhere.

    Some models wrap each map: `q_proj.linear`.
    """
    if _ROUTER.search(name):
        return "router"
    parts = name.removesuffix(".linear").split(".")
    ends = (".".join(parts[-2:]), parts[-1])  # the longer one decides: RWKV's `feed_forward.key` is up
    roles = (role for end in ends for role, endings in _ROLE_ENDINGS.items() if end in endings.split())
    role = next(roles, None)
    if role is None and name.endswith("output.dense"):
        return "o" if "attention" in name else "down"
    return role
