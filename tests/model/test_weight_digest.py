"""A changed base model is detected, by name after a trial, and by its digest in another process."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch import nn
from toys.bases import toy_base

from autopeft.model.weight_comparison import bit_sums, first_change, weight_digests


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(250, 400, generator=generator), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(3, dtype=torch.bfloat16), requires_grad=False)
        self.register_buffer("angles", torch.ones(5), persistent=False)
        self.register_buffer("flags", torch.tensor([True, False]))


def one_number(module):
    module.weight.data.view(-1)[1001] += 1e-6


def removed(module):
    del module.bias


def buffer(module):
    module.flags[0] = False


def computed(module):
    module.angles[2] = 0.0


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (one_number, "weight"),
        (removed, "bias"),
        (buffer, "flags"),
        (computed, None),  # no checkpoint holds it: the module may compute it again
    ],
)
def test_changed_tensor_is_named(change, name):
    module = Toy()
    before = bit_sums(module)
    change(module)
    assert first_change(module, before) == name


def test_bits_of_views_that_start_at_an_odd_place_are_summed():
    module = nn.Module()
    module.weight = nn.Parameter(torch.arange(9, dtype=torch.float32)[1:], requires_grad=False)
    copied = nn.Module()
    copied.weight = nn.Parameter(module.weight.clone(), requires_grad=False)
    assert bit_sums(module) == bit_sums(copied)


def test_a_model_has_one_digest_in_float32_and_in_bfloat16():
    module = nn.Linear(300, 200)
    digests = weight_digests(module)
    assert weight_digests(module.bfloat16()) == digests == weight_digests(module.float())
    module.weight.data[0, 0] += 1.0
    assert weight_digests(module) != digests


def test_excluded_modules_are_not_in_the_digest():
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    before = weight_digests(module, exclude=("1",))
    module[1].weight.data.add_(1.0)
    assert weight_digests(module, exclude=("1",)) == before


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_trial_with_lora_on_experts_is_not_a_change(dtype, make_plan, attach, batch_for):
    base = toy_base("moe-lm", dtype=dtype)
    before = bit_sums(base.module)
    with attach(base, make_plan(base, "lora")) as adapted, base.autocast():
        adapted(**batch_for(base)).loss.backward()
    assert first_change(base.module, before) is None


def test_frequencies_that_longrope_writes_as_it_runs_are_not_a_change():
    """As Phi-3 does it for texts below and above the length of its pretraining."""
    factors = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    config = transformers.Phi3Config(
        **{"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
        **{"num_key_value_heads": 2, "vocab_size": 20, "pad_token_id": 0, "max_position_embeddings": 64},
        original_max_position_embeddings=16,
        rope_parameters={"rope_type": "longrope", "rope_theta": 1e4, "factor": 4.0, **factors},
    )
    model = transformers.Phi3ForCausalLM(config).requires_grad_(False)
    before, frequencies = bit_sums(model), model.model.rotary_emb.inv_freq.clone()
    model(input_ids=torch.ones(1, 32, dtype=torch.long))
    assert not torch.equal(model.model.rotary_emb.inv_freq, frequencies)
    assert first_change(model, before) is None
