"""Configs of `suggest` for hybrids, mixtures of experts and models of images, attached by plain peft."""

from __future__ import annotations

import peft
import pytest
import torch
import transformers
from peft.tuners.tuners_utils import BaseTunerLayer
from toys.topologies import build

import autopeft
from autopeft.commands import check
from autopeft.errors import TargetError
from autopeft.model import components

MOE = {"attention", "shared_expert"}
# Model -> components that are adapted by default.
ADAPTED = {
    "qwen3_next": MOE,
    "qwen3_5": {"attention", "mlp"},
    "falcon_h1": {"attention", "mlp", "recurrent"},
    "granitemoehybrid": {"attention", "mlp"},
    "granitemoehybrid (experts)": MOE,
    "lfm2": {"attention", "mlp"},
    "nemotron_h": {"attention", "mlp"},
    "gpt_oss": {"attention"},
    "qwen3_moe": {"attention"},
    "deepseek_v3": MOE | {"mlp"},
    "glm4_moe": MOE | {"mlp"},
    "kimi_linear": MOE | {"mlp"},
    "gemma3": {"attention", "mlp"},
    "gemma4_text (experts)": MOE,
    "llama4_text": MOE | {"mlp"},
    "qwen2_5_vl": {"attention", "mlp"},
    "zamba2": {"attention", "mlp"},
    "mamba2": {"recurrent"},
}


def suggested(name, folder, **settings):
    """The suggestion for a tiny random model, and that model with the suggested config by plain peft."""
    model = build(name, device="cpu")
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    suggestion = autopeft.suggest(folder, budget="r4", **settings)
    parts = components(model)
    adapted = peft.get_peft_model(model, suggestion.config)
    layers = {
        name.replace(".base_layer", "")
        for name, layer in adapted.get_base_model().named_modules()
        if isinstance(layer, BaseTunerLayer)
    }
    return suggestion, adapted, {parts[name] for name in layers}


@pytest.mark.parametrize("name", ADAPTED)
def test_plain_peft_adapts_exactly_the_announced_modules_and_all_of_them_learn(name, tmp_path):
    suggestion, adapted, found = suggested(name, tmp_path)
    trained = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    assert sum(p.numel() for p in trained.values()) == suggestion.trainable_params
    assert found == ADAPTED[name]
    assert "norm" not in " ".join(suggestion.estimate.answer.described.count.notes)  # LoRA adapts none
    words = torch.randint(4, 50, (2, 12), generator=torch.Generator().manual_seed(0))
    adapted.train()(input_ids=words, labels=words).loss.backward()
    assert [name for name, p in trained.items() if p.grad is None] == []
    assert [name for name, p in trained.items() if "lora_B" in name and not p.grad.any()] == []


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("qwen3_next", ("attention", "recurrent")),
        ("mixtral", ("attention", "routed_experts")),
        ("gemma3", ("attention", "mlp", "vision")),
        ("zamba2", ("recurrent",)),
    ],
)
def test_components_are_adapted_on_request(name, wanted, tmp_path):
    suggestion, adapted, found = suggested(name, tmp_path, components=wanted)
    assert adapted.num_parameters(only_trainable=True) == suggestion.trainable_params
    assert found == set(wanted)


def test_a_component_that_the_model_has_not_is_refused(tmp_path):
    with pytest.raises(TargetError, match="recurrent"):
        suggested("mixtral", tmp_path, components=("recurrent",))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("qwen3_next", {"components": ("recurrent",)}),
        ("qwen3_moe", {"components": ("attention", "routed_experts")}),
        ("gemma3", {"components": ("attention", "vision")}),
    ],
)
def test_named_servers_are_those_for_which_check_finds_no_more_than_warnings(name, settings, tmp_path):
    suggestion, adapted, _ = suggested(name, tmp_path, **settings)
    adapted.peft_config["default"].base_model_name_or_path = str(tmp_path)
    adapted.save_pretrained(tmp_path / "adapter")
    assert suggestion.servers == loading(tmp_path / "adapter")


def test_a_server_of_the_whole_model_is_not_named_for_its_text_model(tmp_path):
    module = build("qwen3_5", device="cpu")
    module.config.architectures = [type(module).__name__]
    module.config.save_pretrained(tmp_path)
    suggestion = autopeft.suggest(tmp_path, budget="r4", task="text-generation")
    adapted = peft.get_peft_model(
        transformers.AutoModelForCausalLM.from_config(module.config), suggestion.config
    )
    adapted.peft_config["default"].base_model_name_or_path = str(tmp_path)
    adapted.save_pretrained(tmp_path / "adapter")
    assert "vllm" not in suggestion.servers
    assert any("Qwen3_5ForCausalLM" in note for note in suggestion.estimate.answer.described.notes)
    assert suggestion.servers == loading(tmp_path / "adapter")


def loading(adapter):
    """The servers that load an adapter by `check`, with their warnings."""
    servers = check(str(adapter)).servers
    return {name: found for name, found in servers.items() if {f.severity for f in found} <= {"warning"}}
