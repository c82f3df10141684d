"""Merged models against `peft` and transformers, with tied embeddings and shared weights."""

from __future__ import annotations

import copy
from dataclasses import replace

import peft
import pytest
import torch
import transformers
from toys.bases import AUTO_CLASSES
from toys.exports import logits_of, trained
from toys.families import CONTEXT, GROUPED, HEADED, SEQ2SEQ, V

from autopeft.errors import SpecError
from autopeft.model import BaseModel
from autopeft.plugins import ExportSource, discover

EXPORTERS = discover("autopeft.exports")
MERGED = EXPORTERS["merged"]


def of_methods(base, make_plan, *names):
    """The methods in turn, each at the target modules that it fits."""
    chosen, taken = [], set()
    plans = [make_plan(base, name).adapters for name in names]
    for index, adapters in enumerate(plans):
        share = [a for i, a in enumerate(adapters) if i % len(names) == index and a.target not in taken]
        taken |= {a.target for a in share}
        chosen += share
    return make_plan(base, chosen)


def load(architecture, folder):
    auto_class = AUTO_CLASSES.get(architecture, "AutoModelForSequenceClassification")
    return getattr(transformers, auto_class).from_pretrained(folder)


def close(seen, expected):
    torch.testing.assert_close(seen, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "llama", "llama-lm"])
@pytest.mark.parametrize("names", [("lora",), ("lora", "ia3", "ln_tuning"), ("vera", "lora")], ids=str)
def test_transformers_alone_reads_the_merged_model(architecture, names, make_base, make_plan, tmp_path):
    base = make_base(architecture)
    toy = trained(base, of_methods(base, make_plan, *names), tmp_path / "weights")
    MERGED.export(toy.source, tmp_path / "out")
    module = load(architecture, tmp_path / "out")
    close(logits_of(module), toy.logits)
    assert set(module.state_dict()) == set(toy.raw.state_dict())
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_merged_model_of_the_head_alone_has_the_trained_head(bert, make_plan, tmp_path):
    toy = trained(bert, make_plan(bert), tmp_path / "weights")
    MERGED.export(toy.source, tmp_path / "out")
    close(logits_of(load("bert", tmp_path / "out")), toy.logits)


def test_weights_of_another_adapter_are_refused_when_merging(bert, make_plan, tmp_path):
    toy = trained(bert, make_plan(bert, "lora", rank=2), tmp_path / "weights")
    other = trained(bert, make_plan(bert, "lora", rank=3), tmp_path / "other")
    for weights in (other.source.weights, ({},)):
        with pytest.raises(SpecError, match="--model"):
            MERGED.export(replace(toy.source, weights=weights, base=copy.deepcopy(toy.raw)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_stays_next_to_the_weights_is_refused_by_name(make_base, tmp_path):
    source = ExportSource(
        configs=(peft.LilyConfig(target_modules=["q_proj"]),),
        base_model="x",
        task_type="CAUSAL_LM",
        weights=({},),
        base=make_base("llama-lm").module,
    )
    with pytest.raises(SpecError, match="LILY"):
        MERGED.export(source, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def base_of(auto_class, config):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = getattr(transformers, auto_class).from_config(config).eval()
    return BaseModel(module, None, name="toy", untrained=frozenset())


def test_output_layer_that_is_the_embeddings_of_a_decoder_is_still_that_when_read_again(make_plan, tmp_path):
    half = {**HEADED, "layer_types": ["sliding_attention", "full_attention"], "initializer_range": 0.2}
    half |= {"max_position_embeddings": CONTEXT}
    base = base_of(SEQ2SEQ, transformers.T5GemmaConfig(encoder=half, decoder=half, vocab_size=V))
    toy = trained(base, make_plan(base, "lora"), tmp_path / "weights")
    MERGED.export(toy.source, tmp_path / "out")
    loader = getattr(transformers, SEQ2SEQ)
    module, report = loader.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not report["missing_keys"]
    close(logits_of(module), toy.logits)


def test_adapters_of_modules_that_share_a_weight_are_not_merged(make_plan, tmp_path):
    base = base_of("AutoModelForCausalLM", transformers.LlamaConfig(**GROUPED, initializer_range=0.2))
    first, second = base.module.model.layers
    second.mlp.up_proj.weight = first.mlp.up_proj.weight
    toy = trained(base, make_plan(base, "lora"), tmp_path / "weights")
    with pytest.raises(SpecError, match=r"shared.*--to native"):
        MERGED.export(toy.source, tmp_path / "out")
