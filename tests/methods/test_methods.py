"""The contract of a PEFT method: the facts of every discovered one, and its costs at the targets of toys."""

from __future__ import annotations

import numpy as np
import pytest
from toys.bases import EVERY_ARCHITECTURE, toy_base

from autopeft.plugins import REFERENCE_WIDTH, discover
from autopeft.types import Adapter

METHODS = discover("autopeft.methods")
by_method = pytest.mark.parametrize("name", METHODS)
TARGETS = {name: toy_base(name).targets for name in EVERY_ARCHITECTURE}


def fitting(method, architectures=EVERY_ARCHITECTURE):
    return [target for name in architectures for target in TARGETS[name] if method.refusal(target) is None]


@by_method
def test_learning_rates_are_an_ascending_range(name):
    low, high = METHODS[name].learning_rate_range
    assert 0 < low < high < 1


@by_method
def test_learning_rates_fall_by_one_power_of_the_width_and_stay_below_the_reference(name):
    method = METHODS[name]
    doubled, quadrupled = (method.at_width(n * REFERENCE_WIDTH).learning_rate_range for n in (2, 4))
    first, second = (
        np.divide(narrow, wide)
        for narrow, wide in ((method.learning_rate_range, doubled), (doubled, quadrupled))
    )
    assert first == pytest.approx(second, rel=0.1) and (first >= 1).all()
    assert method.at_width(128).learning_rate_range == method.learning_rate_range
    assert method.at_width(768).at_width(768).learning_rate_range == doubled


@by_method
def test_method_fits_some_targets(name):
    assert fitting(METHODS[name])


@by_method
def test_ranks_ascend_and_cost_more_and_more(name):
    method = METHODS[name]
    for target in fitting(method):
        options = method.options(target)
        ranks = list(method.ranks(target, options))
        costs = [method.cost(target, rank, options) for rank in ranks]
        assert ranks == sorted(set(ranks)) and ranks[0] >= 1
        assert costs == sorted(set(costs)) and costs[0] > 0
        assert len(ranks) == 1 or method.ranked


@by_method
def test_one_config_has_different_ranks_only_if_the_method_takes_rank_patterns(name):
    method = METHODS[name]
    widest = [
        target
        for target in fitting(method, ["bert"])
        if len(method.ranks(target, method.options(target))) > 1
    ]
    adapters = [
        Adapter(
            method=name,
            target=target.name,
            rank=method.ranks(target, method.options(target))[i % 2],
            scale=1.0,
            options=tuple(method.options(target).items()),
        )
        for i, target in enumerate(widest)
    ]
    if method.ranked:
        assert len(method.configs(adapters)) == (1 if method.takes_rank_pattern else 2)


def test_bitfit_leaves_out_layers_without_a_bias_and_keys():
    roles = {target.role for target in fitting(METHODS["bitfit"], ["bert"])}
    assert roles == {"q", "v", "o", "up", "down", "dense"}
    assert not fitting(METHODS["bitfit"], ["llama", "gpt2"])


def held_at(model, target):
    """Rank and scale of the LoRA layer at a target; experts in one parameter are wrapped in each other."""
    holder, _, parameter = target.rpartition(".")
    layers = dict(model.base_model.model.named_modules())
    layer = layers.get(target) or layers[holder]
    while getattr(layer, "parameter_name", None) not in (None, parameter):
        layer = layer.base_layer
    return layer.r["default"], layer.scaling["default"]


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "llama", "moe-lm"])
@pytest.mark.filterwarnings("ignore:The following .*_pattern keys:RuntimeWarning")
def test_lora_gives_each_target_its_own_rank_and_its_own_scale(architecture, make_base, attach, make_plan):
    base = make_base(architecture)
    targets = [target for target in base.targets if METHODS["lora"].refusal(target) is None]
    # Every rank and scale once or twice, in no order that layers or roles have.
    wanted = {target.name: (1 + i * 5 % 7, 0.5 + i * 3 % 4) for i, target in enumerate(targets)}
    adapters = [
        Adapter(
            method="lora",
            target=target.name,
            rank=wanted[target.name][0],
            scale=wanted[target.name][1],
            options=tuple(METHODS["lora"].options(target).items()),
        )
        for target in targets
    ]
    with attach(base, make_plan(base, adapters)) as model:
        assert {name: held_at(model, name) for name in wanted} == wanted
