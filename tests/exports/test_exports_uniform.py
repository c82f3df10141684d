"""Uniform LoRA: readers after vLLM's and llama.cpp's rules compute what `peft` does."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import peft
import pytest
import torch
from safetensors.torch import load_file
from toys.exports import (
    halves,
    llama_cpp,
    logits_of,
    read_config,
    served,
    shake,
    trained,
    vllm,
)

from autopeft.errors import SpecError
from autopeft.exports import read_weights
from autopeft.plugins import ExportSource, discover

EXPORTERS = discover("autopeft.exports")
UNIFORM, NATIVE = EXPORTERS["uniform-lora"], EXPORTERS["native"]
SERVED = ("bert", "gpt2", "llama", "llama-lm")
by_reader = pytest.mark.parametrize("reader", [vllm, llama_cpp], ids=["vllm", "llama.cpp"])
by_architecture = pytest.mark.parametrize("architecture", SERVED)


def uneven(base, make_plan):
    """Ranks 1 to 3 and scales 2 and 3, in no order that layers or roles have."""
    chosen = make_plan(base, "lora").adapters
    return make_plan(base, [replace(a, rank=1 + i % 3, scale=2.0 + i % 2) for i, a in enumerate(chosen)])


def close(seen, expected):
    torch.testing.assert_close(seen, expected, rtol=0, atol=1e-5)


@by_reader
@by_architecture
def test_servers_read_uneven_ranks_and_scales_exactly(architecture, reader, make_base, make_plan, tmp_path):
    base = make_base(architecture)
    toy = trained(base, uneven(base, make_plan), tmp_path / "weights")
    UNIFORM.export(toy.source, tmp_path / "out")
    close(served(toy.raw, tmp_path / "out", reader), toy.logits)


@pytest.mark.parametrize("reader", [vllm, llama_cpp])
def test_rslora_is_folded_into_the_weights(reader, make_base, tmp_path):
    raw = make_base("llama-lm").module
    config = peft.LoraConfig(r=4, lora_alpha=6, use_rslora=True, target_modules=["q_proj", "down_proj"])
    model = peft.get_peft_model(copy.deepcopy(raw), config)
    shake(model)
    model.save_pretrained(tmp_path / "weights")
    source = ExportSource(
        configs=(config,),
        base_model="toy/model",
        task_type="CAUSAL_LM",
        weights=(read_weights(tmp_path / "weights"),),
        base=raw,
    )
    UNIFORM.export(source, tmp_path / "out")
    assert read_config(tmp_path / "out")["use_rslora"] is False
    close(served(raw, tmp_path / "out", reader), logits_of(model))


@by_architecture
def test_plain_peft_reads_it_as_the_same_adapter(architecture, make_base, make_plan, tmp_path):
    base = make_base(architecture)
    toy = trained(base, uneven(base, make_plan), tmp_path / "weights")
    UNIFORM.export(toy.source, tmp_path / "out")
    if toy.source.head:
        toy.raw.load_state_dict(load_file(tmp_path / "out" / "head.safetensors"), strict=False)
    close(logits_of(peft.PeftModel.from_pretrained(toy.raw, tmp_path / "out")), toy.logits)


@by_architecture
def test_config_has_one_rank_plain_names_and_no_patterns(architecture, make_base, make_plan, tmp_path):
    base = make_base(architecture)
    toy = trained(base, uneven(base, make_plan), tmp_path / "weights")
    notes = UNIFORM.export(toy.source, tmp_path / "out")
    config = read_config(tmp_path / "out")
    assert (config["r"], config["lora_alpha"], config["modules_to_save"]) == (3, 3, None)
    assert not config["rank_pattern"] and not config["alpha_pattern"]
    assert {a.shape[0] for a, _ in halves(tmp_path / "out").values()} == {3}
    assert all(not set("()|^*\\") & set(name) for name in config["target_modules"])
    is_language = toy.source.task_type == "CAUSAL_LM"  # vLLM takes no LoRA of other models
    assert any("--max-lora-rank 8" in note for note in notes) == is_language
    assert any("--to merged" in note for note in notes) == bool(toy.source.head)
    if architecture.startswith("llama"):
        names = "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj"
        assert config["target_modules"] == sorted(names.split())


def test_several_lora_configs_become_one_adapter(make_base, tmp_path):
    """Two adapters trained one after the other, one target module in both: their changes add up."""
    raw = make_base("llama-lm").module
    model, weights, configs = copy.deepcopy(raw), [], []
    for index, names in enumerate((["q_proj", "v_proj"], ["v_proj", "up_proj"])):
        configs.append(peft.LoraConfig(r=2 + index, lora_alpha=5, target_modules=names))
        attached = peft.get_peft_model(model, configs[-1])
        shake(attached, seed=index)
        attached.save_pretrained(tmp_path / str(index))
        weights.append(read_weights(tmp_path / str(index)))
        model = attached.merge_and_unload()
    source = ExportSource(
        configs=tuple(configs),
        base_model="toy/model",
        task_type="CAUSAL_LM",
        weights=tuple(weights),
        base=raw,
    )
    UNIFORM.export(source, tmp_path / "out")
    close(served(raw, tmp_path / "out", vllm), logits_of(model))
    assert {a.shape[0] for a, _ in halves(tmp_path / "out").values()} == {5}


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"use_dora": True}, "--to merged"),
        ({"bias": "lora_only"}, "lora_only"),
        ({"target_parameters": ["mlp.experts.down_proj"]}, "experts"),
    ],
)
def test_what_is_more_than_plain_lora_is_refused(settings, reason, make_base, tmp_path):
    config = peft.LoraConfig(target_modules=["q_proj"], **settings)
    base = make_base("llama-lm").module
    source = ExportSource(configs=(config,), base_model="x", task_type="CAUSAL_LM", weights=({},), base=base)
    with pytest.raises(SpecError, match=reason):
        UNIFORM.export(source, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_shapes_alone_of_the_base_model_suffice(make_base, make_plan, tmp_path):
    base = make_base("llama-lm")
    toy = trained(base, make_plan(base, "lora"), tmp_path / "weights")
    UNIFORM.export(replace(toy.source, base=copy.deepcopy(toy.raw).to("meta")), tmp_path / "out")
    close(served(toy.raw, tmp_path / "out", vllm), toy.logits)
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["task_type"] == "CAUSAL_LM"
