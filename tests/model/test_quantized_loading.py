"""Base models quantized by bitsandbytes: what is quantized, how it is counted, what is refused."""

from __future__ import annotations

import weakref
from dataclasses import replace

import pytest
import torch
import transformers
from torch import nn
from toys.bases import toy_config
from toys.quantized import LLM, QUANTIZED_MARKS, by_bits, load_toy, search_spec

from autopeft import commands, model
from autopeft.errors import ModelError
from autopeft.finished.training_notes import plan_document
from autopeft.model.linear_layers import n_bits
from autopeft.setup.build import prepare
from autopeft.store import read_plan, write_plan

pytestmark = QUANTIZED_MARKS
OTHERS = ("llama", LLM, "gpt2-lm", "vit")


def nightly(architecture):
    return pytest.param(architecture, marks=pytest.mark.nightly)


@by_bits
@pytest.mark.parametrize("architecture", ["bert", "gpt2", "t5-lm", "moe-lm", *map(nightly, OTHERS)])
def test_counts_and_targets_are_those_of_the_model_before(architecture, bits, saved):
    folder = saved(architecture)
    before, base = (load_toy(folder, word, architecture=architecture) for word in ("none", bits))
    assert (base.base_params, base.head_params) == (before.base_params, before.head_params)
    assert base.base_params == sum(p.numel() for p in before.module.parameters()) - before.head_params
    # bitsandbytes makes linear layers of GPT-2's Conv1D, and says of which class they were.
    kinds = {target.name: target.kind for target in before.targets}
    as_before = [replace(target, quantized=False, kind=kinds[target.name]) for target in base.targets]
    assert as_before == list(before.targets)
    quantized = {target.name for target in base.targets if target.quantized}
    apart = {target.name for target in base.targets if target.name.endswith("DenseReluDense.wo")}
    assert quantized == {target.name for target in base.targets if target.kind == "linear"} - apart
    assert base.n_bits == int(bits[0])


@by_bits
def test_plan_of_a_quantized_model_is_counted_from_its_config(
    bits, saved, methods, make_plan, data_dir, tmp_path
):
    """BitFit fits GPT-2 where its Conv1D have become linear layers."""
    folder = saved("gpt2")
    prepared = prepare(search_spec(bits, folder, data_dir, tmp_path))
    plan = make_plan(prepared.base, "bitfit")
    document = plan_document(prepared, plan)
    written = tmp_path / "plan.yaml"
    write_plan(written, document)
    assert read_plan(written) == document
    assert commands.count(written).trainable_params == plan.trainable_params


@by_bits
@pytest.mark.parametrize("architecture", ["bert", "llama"])
def test_head_missing_in_the_checkpoint_stays_in_float32(architecture, bits, tmp_path, tokenizer):
    """By default transformers 5.24 would quantize it, and leave it without weights."""
    auto = transformers.AutoModel.from_config(toy_config(architecture, hidden=32))
    auto.save_pretrained(tmp_path)
    base = load_toy(tmp_path, bits, architecture=architecture)
    (head,) = base.head_names
    layer = base.module.get_submodule(head)
    assert type(layer) is nn.Linear
    assert layer.weight.dtype == torch.float32
    again = load_toy(tmp_path, "none", architecture=architecture).module.get_submodule(head)
    assert torch.equal(layer.weight, again.weight)  # drawn with the same seed in every process


@by_bits
def test_pooler_missing_in_the_checkpoint_stays_plain_and_is_trained_with_the_head(bits, tmp_path):
    bert = transformers.BertModel(toy_config("bert", hidden=32), add_pooling_layer=False)
    bert.save_pretrained(tmp_path)
    base = load_toy(tmp_path, bits)
    assert base.head_names == ("classifier", "bert.pooler.dense")
    assert type(base.module.bert.pooler.dense) is nn.Linear
    assert {name for name, child in base.module.named_modules() if n_bits(child)} == {
        target.name for target in base.targets if target.kind == "linear"
    }


def test_quantized_checkpoint_is_loaded_as_it_is_and_not_quantized_again(saved, tmp_path):
    base = load_toy(saved("bert"), "4bit")
    base.module.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="quantized already"):
        load_toy(tmp_path, "8bit")
    again = load_toy(tmp_path, "none")
    assert (again.n_bits, again.base_params) == (4, base.base_params)
    assert again.sha256() == base.sha256()


@by_bits
@pytest.mark.parametrize("architecture", ["llama-lm", "bert"])
def test_embeddings_are_held_as_the_model_computes_and_norms_of_torch_in_float32(architecture, bits, saved):
    """Of a model of 8 billion weights embeddings and output layer take 2 GB more in float32."""
    low = model.Precision(dtype="bfloat16")
    base = load_toy(saved(architecture), bits, architecture=architecture, precision=low)
    kinds = {part: parameter.dtype for part in base.module.modules() for parameter in part.parameters(False)}
    assert {kinds[part] for part in kinds if isinstance(part, nn.Embedding)} == {torch.bfloat16}
    assert {kinds[part] for part in kinds if isinstance(part, nn.LayerNorm)} <= {torch.float32}
    assert {kinds[base.module.get_submodule(name)] for name in base.head_names} <= {torch.float32}


@by_bits
def test_a_model_whose_weights_workers_hold_keeps_only_digests_and_counts(bits, saved):
    base = load_toy(saved("bert"), bits)
    digests, layers = base.weight_digests, [child for child in base.module.modules() if n_bits(child)]
    held = [weakref.ref(layer.weight) for layer in layers]
    n_params = base.base_params, base.head_params, base.n_bits
    base.leave_device()
    assert all(p.is_meta for p in base.module.parameters())
    assert layers and not any(weight() is not None for weight in held)
    assert (base.base_params, base.head_params, base.n_bits) == n_params
    assert base.weight_digests == digests != {}
