"""Components and topologies of models of transformers, as read by hand in their modeling files."""

from __future__ import annotations

import re

import pytest
from toys.topologies import build

from autopeft.model import components, topology

TOPOLOGY = {
    "llama": "dense",
    "bert": "dense",
    "whisper": "dense",
    "clip": "dense",
    "qwen3_5_text": "sequential hybrid",
    "granitemoehybrid": "sequential hybrid",
    "nemotron_h": "sequential hybrid",
    "lfm2": "sequential hybrid",
    "zamba2": "sequential hybrid",
    "bamba": "sequential hybrid",
    "recurrent_gemma": "sequential hybrid",
    "olmo_hybrid": "sequential hybrid",
    "falcon_h1": "parallel hybrid",
    "mamba2": "recurrent",
    "rwkv": "recurrent",
    "xlstm": "recurrent",
    "qwen3_next": "sequential hybrid, mixture of experts",
    "minimax": "sequential hybrid, mixture of experts",
    "kimi_linear": "sequential hybrid, mixture of experts",
    "jamba": "sequential hybrid, mixture of experts",
    "gpt_oss": "mixture of experts",
    "switch_transformers": "mixture of experts",
    "gemma3": "dense, vision-language",
    "qwen3_5": "sequential hybrid, vision-language",
    "qwen2_audio": "dense, audio-language",
}
# Model -> pattern of module names -> their component.
COMPONENTS = {
    "qwen3_next": {
        r".*linear_attn.*": "recurrent",
        r".*self_attn.*": "attention",
        r".*shared_expert\..*": "shared_expert",
        r".*shared_expert_gate|.*mlp\.gate": "router",
        r".*mlp\.experts": "routed_experts",
    },
    "kimi_linear": {
        r".*layers\.0\.self_attn.*": "recurrent",
        r".*layers\.1\.self_attn.*": "attention",
        r".*layers\.0\.mlp.*": "mlp",
        r".*layers\.1\.mlp\.shared_experts.*": "shared_expert",
    },
    "minimax": {r".*layers\.0\.self_attn.*": "recurrent", r".*layers\.1\.self_attn.*": "attention"},
    "nemotron_h": {
        r".*layers\.0\.mixer.*": "recurrent",
        r".*layers\.[13]\.mixer.*": "mlp",
        r".*layers\.2\.mixer.*": "attention",
    },
    "granitemoehybrid": {r".*shared_mlp.*": "mlp", r".*mamba.*": "recurrent"},
    "granitemoehybrid (experts)": {r".*shared_mlp.*": "shared_expert"},
    "lfm2": {r".*conv\..*": "recurrent", r".*self_attn\.(.*_proj|.*layernorm)": "attention"},
    "rwkv": {r".*attention\.key": "recurrent", r".*feed_forward\.key": "mlp"},
    "zamba2": {r".*adapter.*": "other", r".*layers\.\d\.linear": "other"},
    "gemma3n_text": {
        r".*(altup\.\w+(coefs|router)|laurel\.linear_\w+|per_layer_(input_gate|projection))": "other"
    },
    "gemma4_text (experts)": {r".*layers.*per_layer_(input_gate|projection)": "other"},
    "switch_transformers": {r".*experts\..*": "routed_experts", r".*router\..*": "router"},
    "opt": {r".*fc[12]": "mlp"},
    "bert": {r".*attention\.output\.dense": "attention", r".*\d\.(output|intermediate)\.dense": "mlp"},
    "clip": {r".*vision_model.*mlp.*": "mlp", "classifier": "head"},
    "clip (both)": {r"vision_model\..*": "vision", r"(visual|text)_projection": "projector"},
    "qwen2_5_vl": {r".*visual\.(blocks|patch_embed).*": "vision", r".*merger.*": "projector"},
    "llama4": {r".*language_model.*self_attn.*": "attention", r".*language_model\.lm_head": "head"},
    "gemma3": {r".*vision_tower.*": "vision", r".*multi_modal_projector.*": "projector"},
    "t5": {r".*relative_attention_bias": "embedding", "lm_head": "head"},
}


@pytest.mark.parametrize("name", TOPOLOGY)
def test_topology_is_that_of_the_modeling_file(name):
    assert topology(build(name)) == TOPOLOGY[name]


@pytest.mark.parametrize("name", COMPONENTS)
def test_components_are_those_of_the_modeling_file(name):
    found = components(build(name))
    for pattern, component in COMPONENTS[name].items():
        matching = {found[module] for module in found if re.fullmatch(pattern, module)}
        assert matching == {component}, pattern


def test_every_module_with_parameters_has_a_component():
    model = build("qwen3_next")
    owners = {name.rpartition(".")[0] for name, _ in model.named_parameters()}
    assert owners == set(components(model))
