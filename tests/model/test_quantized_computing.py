"""Quantized base models compute, train and score like the models that their bits stand for."""

from __future__ import annotations

import weakref

import pytest
import torch
import transformers
from toys.bases import state_of
from toys.quantized import QUANTIZED_MARKS, by_bits, load_toy
from transformers.pytorch_utils import Conv1D

from autopeft import model
from autopeft.model.linear_layers import n_bits, plain_weight
from autopeft.model.quantization import stop_mutation
from autopeft.plugins import discover
from autopeft.sensitivity import ScoredModel, measure

pytestmark = QUANTIZED_MARKS


def plain_twin(base):
    """The same model dequantized by transformers."""
    twin = type(base.module).from_pretrained(
        base.name,
        quantization_config=base.module.config.quantization_config,
        dtype=torch.float32,
        device_map={"": "cpu"},
    )
    return twin.dequantize().eval()


@by_bits
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_and_outputs_are_those_of_transformers_in_the_same_format(bits, dtype, saved):
    folder = saved("llama-lm")
    base = load_toy(folder, bits, architecture="llama-lm", precision=model.Precision(dtype=dtype))
    plain = transformers.AutoModelForCausalLM.from_pretrained(
        folder,
        quantization_config=base.module.config.quantization_config,
        dtype=getattr(torch, dtype),
        device_map={"": "cpu"},
    ).eval()
    stop_mutation(plain)
    expected = plain.state_dict()
    assert all(torch.equal(expected[name], value) for name, value in base.module.state_dict().items())
    packed = [child for child in base.module.modules() if n_bits(child) == 4]
    assert {child.weight.quant_state.dtype for child in packed} <= {getattr(torch, dtype)}
    ids = torch.arange(2, 12).reshape(2, 5)
    with torch.no_grad():
        assert torch.equal(base.module(ids).logits, plain(ids).logits)


@by_bits
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_trial_leaves_the_quantized_model_as_it_was(bits, dtype, saved, make_bench, make_plan, fidelity):
    """On some processors bitsandbytes repacks layers at evaluation; it casts biases to the compute dtype."""
    base = load_toy(saved("bert"), bits, precision=model.Precision(dtype=dtype), with_tokenizer=True)
    bench = make_bench(base=base)
    before = state_of(base.module)
    plan = make_plan(base, [a for a in make_plan(base, "lora").adapters if a.target.endswith("query")])
    for chosen in (plan, make_plan(base, "bitfit"), make_plan(base, "ia3"), make_plan(base)):
        assert bench.measure(chosen, fidelity()).error is None  # else the base model was changed
    assert state_of(base.module) == before


@by_bits
def test_what_is_trained_is_in_float32_also_where_biases_are_not(bits, saved, make_plan, attach):
    base = load_toy(saved("bert"), bits, precision=model.Precision(dtype="bfloat16"))
    base.name = "toy bert"
    biases = make_plan(base, "bitfit").adapters[:4]
    targets = {adapter.target for adapter in biases}
    layers = [adapter for adapter in make_plan(base, "lora").adapters if adapter.target not in targets]
    plan = make_plan(base, [*biases, *layers])
    with attach(base, plan) as attached:
        kinds = {p.dtype for p in attached.parameters() if p.requires_grad}
    assert kinds == {torch.float32}


@by_bits
@pytest.mark.parametrize(
    "architecture", ["bert", *(pytest.param(name, marks=pytest.mark.nightly) for name in ("gpt2", "llama"))]
)
def test_every_method_with_every_choice_trains_where_it_says_that_it_fits(
    architecture, bits, saved, methods, make_bench, make_plan, fidelity
):
    base = load_toy(saved(architecture), bits, architecture=architecture, with_tokenizer=True)
    bench = make_bench(base=base)
    failed = {}
    for name, method in methods.items():
        chosen = [{option: value} for option, values in method.choices.items() for value in values[1:]]
        for choices in [{}, *chosen]:
            plan = make_plan(base, name, rank=2, learning_rate=1e-3, **choices)
            if plan.adapters:
                failed[name, str(choices)] = bench.measure(plan, fidelity(train_steps=2)).error
    assert len(failed) >= 14
    assert {key: error for key, error in failed.items() if error is not None} == {}


@by_bits
def test_scores_are_those_of_the_model_that_the_bits_stand_for(bits, saved, make_batch, task):
    base = load_toy(saved("bert"), bits)
    twin = plain_twin(base).requires_grad_(False)
    scores = [discover("autopeft.sensitivity")[name] for name in ("gradient", "fisher")]
    batches = [make_batch(seed=seed) for seed in range(2)]
    scored, expected = (
        measure(scores, ScoredModel(model=module, targets=base.targets, task=task), batches)
        for module in (base.module, twin)
    )
    for seen, plain in zip(scored.scores, expected.scores, strict=True):
        values, others = torch.tensor(seen.values), torch.tensor(plain.values)
        off = float((values - others).norm() / others.norm())
        assert off < (1e-4 if bits == "4bit" else 0.1), seen.name  # 8 bits round the inputs as well
        pairs = zip(seen.values, base.targets, strict=True)
        assert min(value for value, target in pairs if target.quantized) > 0
    assert not any("does not measure" in note for note in scored.notes)


@by_bits
@pytest.mark.parametrize("architecture", ["bert", "gpt2"])
def test_dequantized_model_computes_the_same_and_is_of_the_old_classes(architecture, bits, saved, batch_for):
    base = load_toy(saved(architecture), bits, architecture=architecture)
    base.name = f"toy {architecture}"
    batch = batch_for(base)
    with torch.no_grad():
        before = base.module(**batch).logits
        model.dequantize(base.module)
        after = base.module(**batch).logits
    torch.testing.assert_close(after, before, rtol=0, atol=1e-4 if bits == "4bit" else 0.05)
    assert base.n_bits == 0
    assert any(isinstance(child, Conv1D) for child in base.module.modules()) == (architecture == "gpt2")


def test_a_layer_in_8_bits_does_not_keep_its_input_for_the_gradient(saved):
    """bitsandbytes keeps it where neither checkpointing nor a hook of saved tensors sees it."""
    base = load_toy(saved("bert"), "8bit")
    layer = next(child for child in base.module.modules() if n_bits(child) == 8).train()
    leaf = torch.randn(2, 3, layer.in_features, requires_grad=True)
    inputs = leaf * 2.0
    output = layer(inputs)
    alive = weakref.ref(inputs)
    del inputs
    assert alive() is None
    output.sum().backward()
    expected = 2.0 * torch.ones(2, 3, layer.out_features) @ plain_weight(layer)
    torch.testing.assert_close(leaf.grad, expected, rtol=1e-2, atol=1e-2)


def test_small_gradients_pass_layers_that_were_made_for_float16():
    """As checkpoints in 4 bits of other tools often are; 2e-8 is 0 in float16."""
    import bitsandbytes

    layer = bitsandbytes.nn.Linear4bit(64, 64, compute_dtype=torch.float16, quant_type="nf4")
    layer = layer.to("cpu").requires_grad_(False)
    stop_mutation(torch.nn.Sequential(layer))
    inputs = torch.ones(1, 64, requires_grad=True)
    (2e-8 * layer(inputs)).sum().backward()
    weight = plain_weight(layer).float()
    torch.testing.assert_close(inputs.grad[0], 2e-8 * weight.sum(dim=0), rtol=0.05, atol=1e-10)
