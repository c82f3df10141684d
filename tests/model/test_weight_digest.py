"""A changed base model is found out: by the quick look after a trial, or by the digest of all of it."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch import nn
from toys.bases import toy_base

from autopeft.model.weight_comparison import TensorWatch, weight_digests

# The weight has 100,000 numbers. The quick look reads every 25th: 100,000 // 4,096 is 24, made odd.


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(250, 400, generator=generator), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(3, dtype=torch.bfloat16), requires_grad=False)
        self.register_buffer("angles", torch.ones(5), persistent=False)
        self.register_buffer("flags", torch.tensor([True, False]))


def changed_by(change):
    """What the quick look says of a toy after a change, and whether the digest differs."""
    module = Toy()
    watch, digest = TensorWatch(module), weight_digests(module)
    with torch.no_grad():
        change(module)
    return watch.first_change(module), weight_digests(module) != digest


def in_place(module):
    module.weight[0, 1] += 1.0  # not in the sample


def inside_the_sample(module):
    module.weight.data.view(-1)[25 * 1000] += 1e-6


def outside_the_sample(module):
    module.weight.data.view(-1)[25 * 1000 + 1] += 1.0


def other_object(module):
    module.weight = nn.Parameter(module.weight.clone(), requires_grad=False)


def other_data(module):
    module.bias.data = module.bias.data.clone()


def removed(module):
    del module.bias


def buffer_in_place(module):
    module.flags[0] = False


def computed_in_place(module):
    module.angles[2] = 0.0


def buffer_by_data(module):
    module.flags.data[0] = False


@pytest.mark.parametrize(
    ("change", "name", "is_other_digest"),
    [
        (in_place, "weight", True),
        (inside_the_sample, "weight", True),
        (outside_the_sample, None, True),
        (other_object, "weight", False),
        (other_data, "bias", False),
        (removed, "bias", True),
        (buffer_in_place, "flags", True),
        (computed_in_place, None, False),  # no part of the state: the module may compute it anew
        (buffer_by_data, "flags", True),
    ],
)
def test_change_is_found_by_the_quick_look_or_by_the_digest(change, name, is_other_digest):
    assert changed_by(change) == (name, is_other_digest)


def test_counted_change_that_changes_nothing_is_none():
    def add_nothing(module):
        module.weight.add_(0.0)
        assert module.weight._version > 0

    assert changed_by(add_nothing) == (None, False)


def test_quick_look_goes_on_after_a_counted_change():
    module = Toy()
    watch = TensorWatch(module)
    module.weight.add_(0.0)
    assert watch.first_change(module) is None
    module.weight.data.view(-1)[0] += 1.0
    assert watch.first_change(module) == "weight"


def test_a_digest_is_of_values_not_of_the_format_that_holds_them():
    module = nn.Linear(300, 200)
    exact, rounded = weight_digests(module), weight_digests(module.bfloat16())
    assert exact["weights in bfloat16"] == rounded["weights in bfloat16"] != exact["weights"]
    widened = weight_digests(module.float())
    assert set(widened.values()) == {rounded["weights in bfloat16"]}
    assert exact.keys() == widened.keys() != rounded.keys()


@pytest.mark.parametrize("index", [0, 1, 59_999])
def test_the_smallest_change_of_a_number_is_in_the_digest_of_exact_values(index):
    module = nn.Linear(300, 200)
    before = weight_digests(module)
    numbers = module.weight.data.view(-1)
    numbers[index] = torch.nextafter(numbers[index], torch.tensor(1.0))
    assert weight_digests(module)["weights"] != before["weights"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_trial_with_lora_on_experts_is_no_change(dtype, make_plan, attach, batch_for):
    base = toy_base("moe-lm", dtype=dtype)
    watch = base.watch
    with attach(base, make_plan(base, "lora")) as adapted, base.autocast():
        adapted(**batch_for(base)).loss.backward()
    assert watch.first_change(base.module) is None


def test_frequencies_that_longrope_writes_as_it_runs_are_no_change():
    """As Phi-3 does it for texts below and above the length of its pretraining."""
    factors = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    config = transformers.Phi3Config(
        **{"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
        **{"num_key_value_heads": 2, "vocab_size": 20, "pad_token_id": 0, "max_position_embeddings": 64},
        original_max_position_embeddings=16,
        rope_parameters={"rope_type": "longrope", "rope_theta": 1e4, "factor": 4.0, **factors},
    )
    model = transformers.Phi3ForCausalLM(config).requires_grad_(False)
    watch, before = TensorWatch(model), model.model.rotary_emb.inv_freq.clone()
    model(input_ids=torch.ones(1, 32, dtype=torch.long))
    assert not torch.equal(model.model.rotary_emb.inv_freq, before)
    assert watch.first_change(model) is None
    model.lm_head.weight.data[0] += 1.0
    assert watch.first_change(model) == "lm_head.weight"
