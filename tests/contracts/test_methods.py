"""The contract of a PEFT method: every discovered one, on three architectures."""

from __future__ import annotations

import copy

import pytest
import torch
from conftest import ARCHITECTURES, adapters_of, state_of
from peft import PeftModel

from autopeft.extension import Method, discover
from autopeft.model import adapter_names, load_weights, save_weights
from autopeft.records import Adapter, Site
from autopeft.train import compile_plan

METHODS = discover("autopeft.methods")
LINEAR = Site(name="x", layer=0, role="up", kind="linear", in_features=8, out_features=12, has_bias=True)
CHOICES = ({}, {"dora": True})  # what a search space offers that reaches an adapter's options
VARIANTS = [
    pytest.param((name, rank, choices), id="-".join([name, str(rank), *choices]))
    for name, method in METHODS.items()
    for rank in ((1, 3) if method.ranked else (0,))
    for choices in CHOICES
    if not choices or method.options(LINEAR, **choices) != method.options(LINEAR)
]
SOME_VARIANTS = [variant for variant in VARIANTS if "-1" not in variant.id]  # where the rank does not matter
# peft warns of norms, of Conv1D and of a second config; that these work is what is tested here.
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:peft"),
    pytest.mark.filterwarnings("ignore::FutureWarning:transformers"),
]
by_method = pytest.mark.parametrize("name", METHODS)


@pytest.fixture
def planned(request, base, make_plan):
    """A fresh base model, and a plan with one variant at every site that it fits."""
    name, rank, choices = request.param
    plan = make_plan(base, name, rank=rank, **choices)
    if not plan.adapters:
        pytest.skip(f"{name} fits no site of {base.name}")
    return base, plan


every_variant = pytest.mark.parametrize("planned", VARIANTS, indirect=True)
most_variants = pytest.mark.parametrize("planned", SOME_VARIANTS, indirect=True)


def mixed(base):
    """A different method at each site, and every rank from 1 to 3, with and without DoRA."""
    adapters = []
    for i, site in enumerate(base.sites):
        fitting = [method for method in METHODS.values() if method.fits(site)]
        method = fitting[i % len(fitting)]
        adapters += adapters_of(method, [site], rank=1 + i % 3, dora=i % 2 == 0)
    return adapters


def train(model, task, batch, *, steps=2):
    """A few steps; the largest absolute gradient that each trained tensor has seen."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(parameters.values(), lr=1e-2)
    largest = dict.fromkeys(parameters, 0.0)
    for _ in range(steps):
        task.loss(model, batch).backward()
        for name, p in parameters.items():
            largest[name] = max(largest[name], 0.0 if p.grad is None else float(p.grad.abs().max()))
        optimizer.step()
        optimizer.zero_grad()
    return largest


def features(batch):
    return {name: value for name, value in batch.items() if name != "labels"}


@torch.no_grad()
def logits(model, batch):
    return model.eval()(**features(batch)).logits


@torch.no_grad()
def hidden(module, batch):
    """What the base model gives to its task head."""
    return getattr(module, module.base_model_prefix)(**features(batch)).last_hidden_state


@by_method
def test_part_is_a_method_with_a_summary_of_its_own(name):
    assert isinstance(METHODS[name], Method)
    assert METHODS[name].name == name
    assert METHODS[name].summary


@by_method
def test_learning_rates_are_an_ascending_range_with_a_source(name):
    low, high = METHODS[name].learning_rate_range
    assert 0 < low < high <= 1
    assert METHODS[name].learning_rate_source


@by_method
def test_method_fits_some_site_of_some_architecture(name, make_base):
    sites = [site for architecture in ARCHITECTURES for site in make_base(architecture).sites]
    assert any(METHODS[name].fits(site) for site in sites)


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("lora", {"linear", "conv1d"}),
        ("ia3", {"linear", "conv1d"}),
        ("bitfit", {"linear"}),
        ("ln_tuning", {"norm"}),
    ],
)
def test_method_fits_the_kinds_of_sites_that_its_tuner_takes(name, kinds, make_base):
    sites = [site for architecture in ARCHITECTURES for site in make_base(architecture).sites]
    assert {site.kind for site in sites if METHODS[name].fits(site)} == kinds


def test_bitfit_leaves_out_maps_without_a_bias_and_keys_whose_bias_softmax_ignores(bert, make_base):
    assert {site.role for site in bert.sites if METHODS["bitfit"].fits(site)} == {
        "q",
        "v",
        "o",
        "up",
        "down",
        "dense",
    }
    assert not any(METHODS["bitfit"].fits(site) for site in make_base("llama").sites)


@by_method
def test_method_refuses_what_is_neither_a_map_nor_a_norm(name):
    odd = {"layer": None, "role": "dense", "in_features": 8, "out_features": 8, "has_bias": False}
    assert not METHODS[name].fits(Site(name="x", kind="parameter", **odd))


@by_method
def test_ranked_methods_cost_nothing_at_rank_0_and_more_with_every_rank(name):
    method = METHODS[name]
    costs = [method.cost(LINEAR, rank, method.options(LINEAR)) for rank in range(4)]
    assert (costs == sorted(set(costs)) and costs[0] == 0) if method.ranked else len(set(costs)) == 1
    assert method.max_rank(LINEAR) == (8 if method.ranked else 1)


@every_variant
def test_cost_is_what_peft_attaches_and_what_requires_a_gradient(planned, attach):
    base, plan = planned
    with attach(base, plan) as model:
        told, _ = model.get_nb_trainable_parameters()
        summed = sum(p.numel() for p in model.parameters() if p.requires_grad)
        assert plan.trainable_params == told - base.head_params == summed - base.head_params > 0


@every_variant
def test_adapters_start_as_the_identity_exactly_where_the_method_says_so(planned, attach, make_batch):
    base, plan = planned
    batch = make_batch()
    before = hidden(base.module, batch)
    with attach(base, plan) as model:
        moved = float((hidden(model.eval().base_model.model, batch) - before).abs().max())
        assert (moved < 1e-5) == METHODS[plan.adapters[0].method].identity_at_start


@most_variants
def test_every_trained_tensor_gets_a_gradient_within_two_steps(planned, attach, make_batch, task):
    base, plan = planned
    with attach(base, plan) as model:
        largest = train(model, task, make_batch())
    assert len(largest) >= len(plan.adapters)
    assert {name: g for name, g in largest.items() if not g > 1e-6} == {}  # 1e-9 is rounding noise


@most_variants
def test_base_model_is_as_it_was_after_training_and_after_an_error(planned, attach, make_batch, task):
    base, plan = planned
    digest, before = base.sha256(), state_of(base.module)
    with attach(base, plan) as model:
        train(model.train(), task, make_batch())
    assert (base.sha256(), state_of(base.module)) == (digest, before)
    with pytest.raises(ZeroDivisionError, match="in a trial"), attach(base, plan) as model:
        task.loss(model.train().requires_grad_(True), make_batch()).backward()
        raise ZeroDivisionError("in a trial")
    assert (base.sha256(), state_of(base.module)) == (digest, before)


@most_variants
def test_saved_weights_load_exactly_here_and_with_plain_peft(planned, attach, make_batch, task, tmp_path):
    base, plan = planned
    batch = make_batch()
    plain = copy.deepcopy(base.module)
    with attach(base, plan) as model:
        train(model, task, batch)
        trained = logits(model, batch)
        save_weights(model, ("default",), tmp_path)
    with attach(base, plan, seed=5) as model:
        assert not torch.equal(logits(model, batch), trained)
        load_weights(model, ("default",), tmp_path)
        assert torch.equal(logits(model, batch), trained)
    assert torch.equal(logits(PeftModel.from_pretrained(plain, tmp_path), batch), trained)


@most_variants
def test_methods_that_claim_it_merge_within_rounding(planned, attach, make_batch, task):
    base, plan = planned
    if not METHODS[plan.adapters[0].method].merges:
        pytest.skip("does not claim to merge")
    batch = make_batch()
    with attach(base, plan) as model:
        train(model, task, batch)
        trained = logits(model, batch)
        merged = model.merge_and_unload(safe_merge=True)
        torch.testing.assert_close(logits(merged, batch), trained, rtol=0, atol=1e-5)


def test_mix_of_methods_costs_the_sum_and_leaves_the_base_model_alone(
    base, make_plan, attach, make_batch, task
):
    plan = make_plan(base, mixed(base))
    digest, before = base.sha256(), state_of(base.module)
    assert len({adapter.method for adapter in plan.adapters}) >= 3
    with attach(base, plan) as model:
        trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
        assert trainable - base.head_params == plan.trainable_params
        assert min(train(model.train(), task, make_batch()).values()) > 1e-6
    assert (base.sha256(), state_of(base.module)) == (digest, before)


def test_mix_of_methods_saves_loads_and_merges(base, make_plan, attach, make_batch, task, tmp_path):
    plan, batch = make_plan(base, mixed(base)), make_batch()
    names = adapter_names(compile_plan(plan, METHODS))
    with attach(base, plan) as model:
        train(model, task, batch)
        trained = logits(model, batch)
        save_weights(model, names, tmp_path)
    with attach(base, plan, seed=5) as model:
        assert not torch.equal(logits(model, batch), trained)
        load_weights(model, names, tmp_path)
        assert torch.equal(logits(model, batch), trained)
        merged = model.merge_and_unload(safe_merge=True)
        torch.testing.assert_close(logits(merged, batch), trained, rtol=0, atol=1e-5)


def test_lora_gives_each_site_its_own_rank_and_its_own_scale(base, attach, make_plan):
    sites = [site for site in base.sites if METHODS["lora"].fits(site)]
    # Every rank and scale once or twice, in no order that layers or roles have.
    wanted = {site.name: (1 + i * 5 % 7, 0.5 + i * 3 % 4) for i, site in enumerate(sites)}
    adapters = [
        Adapter(method="lora", site=name, rank=rank, scale=scale) for name, (rank, scale) in wanted.items()
    ]
    with attach(base, make_plan(base, adapters)) as model:
        layers = dict(model.base_model.model.named_modules())
        seen = {name: (layers[name].r["default"], layers[name].scaling["default"]) for name in wanted}
    assert seen == wanted
