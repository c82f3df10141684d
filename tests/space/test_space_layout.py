"""Plans of policies: ranks that the budget covers."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys.space import DORA, METHODS, N_LAYERS, context, policies, prices, recount, targets

from autopeft.space import Policy, plan_of, select_targets

ONE_RANK = ("hira", "miss", "oft")  # of those that are drawn, the ranked ones whose config holds one rank


@given(policies(), st.integers(24, 6000))
def test_a_plan_is_within_the_budget_and_never_empty(policy: Policy, budget: int) -> None:
    plan = plan_of(policy, context(budget))
    assert recount(plan) == plan.trainable_params <= budget
    assert plan.adapters  # the cheapest target module of every method here costs 24 at most
    assert len({adapter.target for adapter in plan.adapters}) == len(plan.adapters)


@given(policies(), st.integers(24, 6000))
def test_methods_without_rank_patterns_have_the_largest_rank_that_the_budget_covers(
    policy: Policy, budget: int
) -> None:
    allocation, plan = context(budget), plan_of(policy, context(budget))
    for method in ONE_RANK:
        assert len({adapter.rank for adapter in plan.adapters if adapter.method == method}) <= 1
    if policy.method in ONE_RANK and not policy.other_parts:
        costs = [
            prices(policy, target) for target in select_targets(policy, allocation, METHODS[policy.method])
        ]
        common = set.intersection(*map(set, costs)) if all(costs) and costs else set()
        fitting = [rank for rank in common if sum(cost[rank] for cost in costs) <= budget]
        assert not fitting or [a.rank for a in plan.adapters] == [max(fitting)] * len(costs)


@given(budget=st.integers(100, 6000))
def test_even_ranks_of_lora_are_one_rank_from_eight_on_and_spend_the_budget_below(budget: int) -> None:
    """Of four layers of 40 inputs and outputs together."""
    policy = Policy(method="lora", placement="up", learning_rate=1e-3)
    wide = tuple(replace(target, in_features=20, out_features=20) for target in targets())
    plan = plan_of(policy, replace(context(budget), targets=wide))
    even = min(budget // (N_LAYERS * 40), 20)
    if even >= 8:
        assert [adapter.rank for adapter in plan.adapters] == [even] * N_LAYERS
        assert even == 20 or budget - plan.trainable_params <= budget / 8
    else:
        assert budget - plan.trainable_params < 40


@given(policies(), st.integers(24, 4000), st.integers(0, 600))
def test_the_cost_of_a_plan_never_falls_when_the_budget_rises(policy: Policy, budget: int, more: int) -> None:
    alone = replace(policy, other_parts=())  # in a mix, a part of one rank may leave another part less
    poor, rich = (plan_of(alone, context(size)) for size in (budget, budget + more))
    assert recount(poor) <= recount(rich)


@given(policies(), st.integers(24, 4000), st.randoms(use_true_random=False))
def test_a_plan_does_not_depend_on_the_order_of_targets_and_comes_out_the_same_again(
    policy: Policy, budget: int, chance: random.Random
) -> None:
    allocation = context(budget)
    shuffled = replace(allocation, targets=tuple(chance.sample(allocation.targets, len(allocation.targets))))
    assert plan_of(policy, allocation) == plan_of(policy, allocation) == plan_of(policy, shuffled)


@pytest.mark.parametrize("width", [384, 3072])
def test_parts_of_a_mix_take_what_is_left_and_keep_their_own_learning_rates(width: int) -> None:
    at_width = METHODS.changed(lambda method: method.at_width(width))  # hira's rates fall faster with it
    mix = Policy(
        method="lora",
        placement="attention",
        learning_rate=2e-3,
        other_parts=(
            Policy(method="hira", learning_rate=2e-3),
            Policy(method="ln_tuning", learning_rate=2e-3),
        ),
    )
    plan = plan_of(mix, replace(context(), methods=at_width))
    methods = {
        target.role: {a.method for a in plan.adapters if a.target.endswith(target.role)}
        for target in targets()
    }
    assert methods == {
        **{role: {"lora"} for role in ("q", "k", "v", "o")},
        **{role: {"hira"} for role in ("up", "down", "dense")},
        "norm": {"ln_tuning"},
    }
    middle = {name: math.sqrt(math.prod(method.learning_rate_range)) for name, method in at_width.items()}
    for adapter in plan.adapters:
        expected = middle[adapter.method] / middle["lora"]
        assert adapter.rate_factor == pytest.approx(expected, rel=5e-3)
    assert str(mix.arm) == "lora/attention & hira/all & ln_tuning/all"


def test_a_policy_that_the_budget_does_not_cover_is_widened() -> None:
    # Rank 1 at up costs 40 and 72 with DoRA; at q 16 and 24.
    policy = Policy(method="lora", placement="mlp", layer_share=0.25, options=DORA, learning_rate=1e-3)
    all_roles, no_dora = plan_of(policy, context(30)), plan_of(policy, context(20))
    assert [(dict(a.options), a.rank) for a in all_roles.adapters] == [({"dora": True}, 1)]
    assert [(dict(a.options), a.rank) for a in no_dora.adapters] == [({}, 1)]


def test_ranks_do_not_depend_on_the_scores() -> None:
    policy, other = Policy(method="lora", learning_rate=1e-3), {target.name: 0.0 for target in targets()}
    assert plan_of(policy, context()) == plan_of(policy, context(scores=other))


@pytest.mark.parametrize("rule", ["constant", "rslora"])
def test_a_scale_rule_gives_whole_alphas_of_its_power_of_the_rank(rule: str) -> None:
    options = (("scale_rule", rule),)
    policy = Policy(method="lora", placement="q", layer_share=0.5, options=options, learning_rate=1e-3)
    adapters = plan_of(policy, context(7 * 16)).adapters
    assert [adapter.rank for adapter in adapters] == [3, 4]
    for adapter in adapters:
        alpha = adapter.scale * adapter.rank
        expected = {"constant": 2.0 * adapter.rank, "rslora": 4.0 * adapter.rank**0.5}[rule]
        assert alpha == pytest.approx(round(alpha)) and abs(alpha - expected) <= 0.5


@pytest.mark.parametrize(("cap", "ranks"), [(8, [3, 4]), (2, [2, 2])])
def test_a_cap_bounds_the_rank_of_every_target(cap: int, ranks: list[int]) -> None:
    # Seven ranks of 16 parameters for q of two layers.
    policy = Policy(method="lora", placement="q", layer_share=0.5, max_rank=cap, learning_rate=1e-3)
    assert [adapter.rank for adapter in plan_of(policy, context(7 * 16)).adapters] == ranks


@pytest.mark.parametrize("budget", [7, 8, 40, 100, 300, 10_000])
@pytest.mark.parametrize("share", [0.3, 1.0])
def test_single_modules_are_taken_by_their_score_per_parameter(budget: int, share: float) -> None:
    """IA3 has as many parameters as a module has outputs, or inputs if it leads down."""
    chance = random.Random(0)
    by_name = {target.name: chance.random() for target in targets()}
    allocation = context(budget, scores=by_name)
    policy = Policy(method="ia3", select="best_modules", layer_share=share, learning_rate=1e-3)
    method = METHODS["ia3"]
    fitting = [target for target in targets() if method.refusal(target) is None]
    costs = {
        target.name: target.in_features if target.role == "down" else target.out_features
        for target in fitting
    }
    expected, left = set(), budget
    for name in sorted(costs, key=lambda name: -by_name[name] / costs[name]):
        if costs[name] <= left and len(expected) < max(1, round(share * len(costs))):
            expected.add(name)
            left -= costs[name]
    assert {target.name for target in select_targets(policy, allocation, method)} == expected
    plan = plan_of(policy, allocation)
    if expected:
        assert {adapter.target for adapter in plan.adapters} == expected
    assert plan.trainable_params == sum(costs[name] for name in expected) <= budget
