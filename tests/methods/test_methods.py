"""The contract of a PEFT method: every discovered one, on encoders, decoders, T5 and a vision transformer."""

from __future__ import annotations

import copy
from functools import cache

import pytest
import torch
from peft import PeftModel
from toys.bases import EVERY_ARCHITECTURE, adapters_of, state_of, toy_base

from autopeft.adapters import compile_plan
from autopeft.errors import SpecError
from autopeft.extension import Method, discover
from autopeft.model import load_weights, merge, save_weights
from autopeft.records import Adapter, Site

METHODS = discover("autopeft.methods")
LINEAR = Site(name="x", layer=0, role="up", kind="linear", in_features=16, out_features=24, has_bias=True)
# peft warns of norms, of Conv1D and of a second config; that these work is what is tested here.
by_method = pytest.mark.parametrize("name", METHODS)


@cache
def toy_sites(architecture):
    return toy_base(architecture).sites


def fits(method, architecture):
    return any(method.refusal(site) is None for site in toy_sites(architecture))


def variants(method):
    """Settings of a method: two ranks, and each of its options in turn at the larger one."""
    sizes = [{"rank": 1}, {"rank": 4}] if method.ranked else [{"rank": 0}]
    chosen = [{option: value} for option, values in method.choices.items() for value in values[1:]]
    return [*sizes, *({**sizes[-1], **choice} for choice in chosen if "scale_rule" not in choice)]


def cases(*, smallest_too):
    """Architecture, method and settings wherever the method fits a site."""
    for architecture in EVERY_ARCHITECTURE:
        for name, method in METHODS.items():
            if fits(method, architecture):
                found = variants(method)
                for settings in found if smallest_too else found[1:] or found:
                    told = [f"{key}={value}" for key, value in settings.items()]
                    yield pytest.param(
                        (architecture, name, settings), id="-".join([architecture, name, *told])
                    )


@pytest.fixture
def planned(request, make_base, make_plan):
    """A fresh base model, and a plan with one variant at every site that it fits."""
    architecture, name, settings = request.param
    base = make_base(architecture)
    return base, make_plan(base, name, **settings)


every_variant = pytest.mark.parametrize("planned", list(cases(smallest_too=True)), indirect=True)
most_variants = pytest.mark.parametrize("planned", list(cases(smallest_too=False)), indirect=True)
every_architecture = pytest.mark.parametrize("architecture", EVERY_ARCHITECTURE)


def merging():
    """The cases whose method claims to merge, and those whose method does not."""
    found = list(cases(smallest_too=False))
    return [
        [case for case in found if METHODS[case.values[0][1]].merges is claimed] for claimed in (True, False)
    ]


def mixed(base):
    """A different method at each site, but for those that share a state or wrap the model; ranks 1 to 3."""
    adapters = []
    for i, site in enumerate(site for site in base.sites if site.kind != "model"):
        fitting = [m for m in METHODS.values() if m.refusal(site) is None and not m.shared]
        if fitting:
            method = fitting[i % len(fitting)]
            # Not relu: of one to three hidden units all may start dead, and then nothing reaches them.
            adapters += adapters_of(method, [site], rank=1 + i % 3, activation="gelu")
    return adapters


def loss_of(model, batch):
    """Of any toy, task head or language model."""
    return model(**batch).loss


def train(model, batch, *, steps=2):
    """A few steps; the largest absolute gradient that each trained tensor has seen."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(parameters.values(), lr=1e-2, weight_decay=0.0)
    largest = dict.fromkeys(parameters, 0.0)
    for _ in range(steps):
        loss_of(model, batch).backward()
        for name, p in parameters.items():
            largest[name] = max(largest[name], 0.0 if p.grad is None else float(p.grad.abs().max()))
        optimizer.step()
        optimizer.zero_grad()
    return largest


@torch.no_grad()
def logits(model, batch):
    return model.eval()(**batch).logits


@torch.no_grad()
def hidden(model, base, batch):
    """What the task head is given; the logits of a language model, which has none."""
    if not base.head_names:
        return logits(model, batch)
    seen = []
    names = (base.head_names[0], f"base_model.{base.head_names[0]}", f"base_model.model.{base.head_names[0]}")
    (head,) = (module for name, module in model.named_modules() if name in names)
    handle = head.register_forward_pre_hook(lambda _, given: seen.append(given[0].clone()))
    model.eval()(**batch)
    handle.remove()
    return seen[0]


@by_method
def test_part_is_a_method_that_describes_itself(name):
    method = METHODS[name]
    assert isinstance(method, Method)
    assert method.name == name
    assert method.label and len(method.short_label.split()) == 1
    assert method.summary and method.formula and method.learning_rate_source and method.step_time_source
    assert all(values for values in method.choices.values())
    assert method.step_time > 0


@by_method
def test_learning_rates_are_an_ascending_range(name):
    low, high = METHODS[name].learning_rate_range
    assert 0 < low < high <= 1


@by_method
def test_servers_are_known_and_those_of_lora_alone(name):
    method = METHODS[name]
    told = method.servers({})
    assert set(told) == ({"vllm", "tgi", "llama.cpp"} if name == "lora" else set())
    if name == "lora":
        assert method.servers({"dora": True}) == ()


@by_method
def test_method_fits_some_site_of_some_architecture(name):
    assert any(fits(METHODS[name], architecture) for architecture in EVERY_ARCHITECTURE)


@by_method
@every_architecture
def test_method_fits_a_site_or_says_why_not(name, architecture):
    for site in toy_sites(architecture):
        refusal = METHODS[name].refusal(site)
        assert refusal is None or len(refusal.split()) >= 3


@by_method
@every_architecture
def test_ranks_ascend_and_cost_more_and_more(name, architecture):
    method = METHODS[name]
    for site in toy_sites(architecture):
        if method.refusal(site) is None:
            options = method.options(site)
            ranks = list(method.ranks(site, options))
            costs = [method.cost(site, rank, options) for rank in ranks]
            assert ranks == sorted(set(ranks)) and ranks[0] >= 1
            assert costs == sorted(set(costs)) and costs[0] > 0
            assert len(ranks) == 1 or method.ranked


@by_method
def test_method_leaves_alone_what_it_does_not_know(name):
    odd = Site(
        name="x", layer=None, role="dense", kind="embedding", in_features=8, out_features=8, has_bias=False
    )
    assert METHODS[name].refusal(odd) is not None


def test_bitfit_leaves_out_maps_without_a_bias_and_keys_whose_bias_softmax_ignores():
    found = {site.role for site in toy_sites("bert") if METHODS["bitfit"].refusal(site) is None}
    assert found == {"q", "v", "o", "up", "down", "dense", "norm"}
    assert not fits(METHODS["bitfit"], "llama")


@every_variant
def test_cost_is_what_peft_attaches_and_what_requires_a_gradient(planned, attach):
    base, plan = planned
    with attach(base, plan) as model:
        told, _ = model.get_nb_trainable_parameters()
        summed = sum(p.numel() for p in model.parameters() if p.requires_grad)
        assert plan.trainable_params == told - base.head_params == summed - base.head_params > 0


@every_variant
def test_adapters_start_as_the_identity_exactly_where_the_method_says_so(planned, attach, batch_for):
    base, plan = planned
    batch = batch_for(base)
    before = hidden(base.module, base, batch)
    with attach(base, plan) as model:
        after = hidden(model, base, batch)
        if plan.adapters[0].site == "inputs" and before.ndim == 3:
            after = after[:, -before.shape[1] :]  # behind the virtual tokens
        moved = float((after - before).abs().max())
        assert (moved < 1e-5) == METHODS[plan.adapters[0].method].identity_at_start


@most_variants
def test_every_trained_tensor_gets_a_gradient_within_two_steps(planned, attach, batch_for):
    base, plan = planned
    with attach(base, plan) as model:
        largest = train(model, batch_for(base))
    assert largest
    assert {name: g for name, g in largest.items() if not g > 1e-6} == {}  # 1e-9 is rounding noise


@most_variants
def test_base_model_is_as_it_was_after_training_and_after_an_error(planned, attach, batch_for):
    base, plan = planned
    digest, before = base.sha256(), state_of(base.module)
    with attach(base, plan) as model:
        train(model.train(), batch_for(base))
    assert (base.sha256(), state_of(base.module)) == (digest, before)
    with pytest.raises(ZeroDivisionError, match="in a trial"), attach(base, plan) as model:
        loss_of(model.train().requires_grad_(True), batch_for(base)).backward()
        raise ZeroDivisionError("in a trial")
    assert (base.sha256(), state_of(base.module)) == (digest, before)


@most_variants
def test_saved_weights_load_exactly_here_and_with_plain_peft(planned, attach, batch_for, tmp_path):
    base, plan = planned
    batch, names = batch_for(base), compile_plan(plan, METHODS).names
    plain = copy.deepcopy(base.module)
    with attach(base, plan) as model:
        train(model, batch)
        trained = logits(model, batch)
        save_weights(model, names, tmp_path)
    with attach(base, plan, seed=5) as model:
        assert not torch.equal(logits(model, batch), trained)
        load_weights(model, names, tmp_path)
        assert torch.equal(logits(model, batch), trained)
    if len(names) == 1:  # several are merged folder by folder: see the tests of mixes
        assert torch.equal(logits(PeftModel.from_pretrained(plain, tmp_path), batch), trained)


MERGING, UNMERGEABLE = merging()


@pytest.mark.parametrize("planned", MERGING, indirect=True)
def test_methods_that_claim_it_merge_within_rounding(planned, attach, batch_for):
    base, plan = planned
    batch = batch_for(base)
    with attach(base, plan) as model:
        train(model, batch)
        trained = logits(model, batch)
        merged = merge(model)
        torch.testing.assert_close(logits(merged, batch), trained, rtol=0, atol=1e-5)


@pytest.mark.parametrize("planned", UNMERGEABLE, indirect=True)
def test_methods_that_do_not_claim_it_cannot_be_merged(planned, attach):
    base, plan = planned
    with (
        attach(base, plan) as model,
        pytest.raises((NotImplementedError, AttributeError, TypeError, SpecError)),
    ):
        merge(model)


@every_architecture
def test_mix_of_methods_costs_the_sum_and_leaves_the_base_model_alone(
    architecture, make_base, make_plan, attach, batch_for
):
    base = make_base(architecture)
    plan = make_plan(base, mixed(base))
    digest, before = base.sha256(), state_of(base.module)
    assert len({adapter.method for adapter in plan.adapters}) >= 4
    with attach(base, plan) as model:
        trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
        assert trainable - base.head_params == plan.trainable_params
        assert min(train(model.train(), batch_for(base)).values()) > 1e-6
    assert (base.sha256(), state_of(base.module)) == (digest, before)


@every_architecture
def test_mix_of_methods_saves_and_loads(architecture, make_base, make_plan, attach, batch_for, tmp_path):
    base = make_base(architecture)
    plan, batch = make_plan(base, mixed(base)), batch_for(base)
    names = compile_plan(plan, METHODS).names
    with attach(base, plan) as model:
        train(model, batch)
        trained = logits(model, batch)
        save_weights(model, names, tmp_path)
    with attach(base, plan, seed=5) as model:
        assert not torch.equal(logits(model, batch), trained)
        load_weights(model, names, tmp_path)
        assert torch.equal(logits(model, batch), trained)


@every_architecture
def test_mix_of_methods_that_merge_merges(architecture, make_base, make_plan, attach, batch_for):
    base, batch = make_base(architecture), batch_for(make_base(architecture))
    plan = make_plan(base, [a for a in mixed(base) if METHODS[a.method].merges])
    with attach(base, plan) as model:
        train(model, batch)
        trained = logits(model, batch)
        merged = merge(model)
        torch.testing.assert_close(logits(merged, batch), trained, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shared", [name for name, method in METHODS.items() if method.shared])
@every_architecture
def test_method_with_a_shared_state_mixes_with_others(
    shared, architecture, make_base, make_plan, attach, batch_for
):
    base = make_base(architecture)
    vectors = make_plan(base, shared).adapters[::2]
    taken = {adapter.site for adapter in vectors}
    plan = make_plan(base, [*(a for a in make_plan(base, "lora").adapters if a.site not in taken), *vectors])
    with attach(base, plan) as model:
        trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
        assert trainable - base.head_params == plan.trainable_params
        assert min(train(model, batch_for(base)).values()) > 1e-7


def held_at(model, site):
    """Rank and scale of the LoRA layer at a site; experts in one parameter are wrapped in each other."""
    holder, _, parameter = site.rpartition(".")
    layers = dict(model.base_model.model.named_modules())
    layer = layers.get(site) or layers[holder]
    while getattr(layer, "parameter_name", None) not in (None, parameter):
        layer = layer.base_layer
    return layer.r["default"], layer.scaling["default"]


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "llama", "moe-lm"])
@pytest.mark.filterwarnings("ignore:The following .*_pattern keys:RuntimeWarning")  # peft takes them
def test_lora_gives_each_site_its_own_rank_and_its_own_scale(architecture, make_base, attach, make_plan):
    base = make_base(architecture)
    sites = [site for site in base.sites if METHODS["lora"].refusal(site) is None]
    # Every rank and scale once or twice, in no order that layers or roles have.
    wanted = {site.name: (1 + i * 5 % 7, 0.5 + i * 3 % 4) for i, site in enumerate(sites)}
    adapters = [
        Adapter(
            method="lora",
            site=site.name,
            rank=wanted[site.name][0],
            scale=wanted[site.name][1],
            options=tuple(METHODS["lora"].options(site).items()),
        )
        for site in sites
    ]
    with attach(base, make_plan(base, adapters)) as model:
        assert {name: held_at(model, name) for name in wanted} == wanted
