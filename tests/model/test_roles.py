"""Roles by the names of layers alone, by hand from the models' code in transformers."""

from __future__ import annotations

import pytest

from autopeft.model.linear_layers import role_by_name, role_of

LAYER = "model.layers.0."
ATTENTION = {
    "self_attn.kv_proj": "kv",  # DeepSeek V4
    "self_attn.compressor.kv_proj": "kv",
    "self_attn.o_a_proj": "o",
    "self_attn.o_b_proj": "o",
    **{f"self_attn.{role}_proj.linear": role for role in "qkvo"},  # Moshi
    "self_attention.kv_proj": "kv",  # JetMoE
    "encoder.self_attn.output": "o",  # BigBird-Pegasus
    "multi_head_attention.dense": "o",  # CTRL
    "attention.output": "o",  # RWKV
    "self_attn.qkv_proj.v_proj_current": "v",  # ZAYA
    "self_attn.qkv_proj.v_proj_delayed": "v",
    "self_att.self_attention.project_k": "k",  # CPM-Ant
    "self_att.self_attention.attention_out": "o",
    "attention.attention.projection_query": "q",  # CvT
    "attention.v_head": "v",
    "attention.post_proj": "o",
    "multi_head_attention.Wk": "k",
    "attn.proj": "o",  # Hiera
    "module.queries_keys_values.linear": "qkv",  # LeViT
}
# Gates, decays and indexers of attention: no part of the feed-forward, whatever their name or shape.
GATES = (
    "self_attn.gate_proj",
    "self_attn.g_proj",
    "self_attn.o_proj.gate_proj",
    "self_attn.compressor.gate_proj",
    "self_attn.indexer.weights_proj",
    "self_attn.forget_gate.f_a_proj",
    "linear_attn.a_proj",
    "linear_attn.b_proj",
)
ROUTERS = (
    "router.proj",  # Gemma 4
    "mlp.gate.wg",  # Hunyuan
    "mlp.router.gate",  # AFMoE
    "mlp.gate.down_proj",  # ZAYA
    "mlp.gate.router_mlp.fc1",
    "mlp.gate.router_mlp.out_proj",
    "router_mlp.fc2",
    "mlp.gate",
    "mlp.router",
    "ffn.router.classifier",
)
SHAPES = [(8, 8), (8, 16), (16, 8)]


@pytest.mark.parametrize(("n_in", "n_out"), SHAPES)
@pytest.mark.parametrize("name", ATTENTION)
def test_layers_of_attention_have_its_roles_whatever_their_shape(name, n_in, n_out):
    assert role_of(LAYER + name, n_in, n_out) == ATTENTION[name]


@pytest.mark.parametrize(("n_in", "n_out"), SHAPES)
@pytest.mark.parametrize("name", GATES)
def test_gates_inside_of_attention_are_not_feed_forward(name, n_in, n_out):
    assert role_of(LAYER + name, n_in, n_out) == "dense"


@pytest.mark.parametrize("name", ROUTERS)
def test_layers_inside_of_a_router_are_routers(name):
    assert role_of(LAYER + name, 8, 3) == role_by_name(LAYER + name) == "router"


def test_a_feed_forward_next_to_attention_or_a_router_keeps_its_roles():
    names = {"gate_proj.linear": "gate", "up_proj": "up", "shared_mlp.down_proj": "down"}
    assert {name: role_of(f"{LAYER}mlp.{name}", 8, 16) for name in names} == names
    assert role_of(f"{LAYER}post_attention_layernorm.mlp.fc1", 8, 16) == "up"
    assert role_of(f"{LAYER}altup.modality_router", 8, 4) == "dense"
