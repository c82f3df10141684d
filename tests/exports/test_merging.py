"""What merging changes beyond the weights: tied embeddings, probes of other shapes, shared weights."""

from __future__ import annotations

import pytest
import torch
import transformers
from toys.exports import logits_of, trained
from toys.families import CONTEXT, GROUPED, HEADED, SEQ2SEQ, V

from autopeft.errors import SpecError
from autopeft.model import BaseModel
from autopeft.plugins import discover

MERGED, METHODS = discover("autopeft.exports")["merged"], discover("autopeft.methods")


def base_of(auto_class, config):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = getattr(transformers, auto_class).from_config(config).eval()
    return BaseModel(module, None, name="toy", untrained=frozenset())


def t5gemma():
    half = {**HEADED, "layer_types": ["sliding_attention", "full_attention"], "initializer_range": 0.2}
    half |= {"max_position_embeddings": CONTEXT}
    return base_of(SEQ2SEQ, transformers.T5GemmaConfig(encoder=half, decoder=half, vocab_size=V))


def read_again(folder, auto_class=SEQ2SEQ):
    return getattr(transformers, auto_class).from_pretrained(folder, output_loading_info=True)


def test_output_layer_that_is_the_embeddings_of_a_decoder_is_still_that_when_read_again(make_plan, tmp_path):
    base = t5gemma()
    toy = trained(base, make_plan(base, "lora"), tmp_path / "weights")
    MERGED.export(toy.source, tmp_path / "out")
    module, report = read_again(tmp_path / "out")
    assert not report["missing_keys"]
    torch.testing.assert_close(logits_of(module), toy.logits, rtol=0, atol=1e-5)


def test_adapters_of_modules_that_share_a_weight_are_not_merged(make_plan, tmp_path):
    base = base_of("AutoModelForCausalLM", transformers.LlamaConfig(**GROUPED, initializer_range=0.2))
    first, second = base.module.model.layers
    second.mlp.up_proj.weight = first.mlp.up_proj.weight
    toy = trained(base, make_plan(base, "lora"), tmp_path / "weights")
    with pytest.raises(SpecError, match=r"shared.*--to native"):
        MERGED.export(toy.source, tmp_path / "out")
