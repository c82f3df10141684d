"""Small steps from the best plan: ranks that move and learning rates, within the bounds of its arm."""

from __future__ import annotations

import itertools
from dataclasses import replace

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys.engine import METHODS, ROOMY, SITES, SPACE, context, levels, run

from autopeft.engine.rates import next_rate
from autopeft.engine.refine import moved_ranks
from autopeft.records import Fidelity, LimitSpec, Plan
from autopeft.space import MixPart, Policy, limited, params_of, plan_of

optuna.logging.set_verbosity(optuna.logging.ERROR)


def by_source(outcome, *sources):
    return [proposal for proposal in outcome.proposals if proposal.source in sources]


def test_refined_proposals_change_a_rate_or_move_ranks_at_equal_cost():
    outcome = run(levels(lora=0.8), trials=48).outcome
    refined = [p.plan for p in by_source(outcome, "refined")]
    assert len(refined) >= 3
    others = [p.plan for p in outcome.proposals if p.source in ("enqueued", "sampler", "random", "refined")]
    for plan in refined:
        siblings = [
            other for other in others if other != plan and other.trainable_params == plan.trainable_params
        ]
        same_adapters = any(other.adapters == plan.adapters for other in siblings)
        one_move = any(
            other.learning_rate == plan.learning_rate and n_changed(other, plan) == 2 for other in siblings
        )
        assert same_adapters or one_move


def n_changed(a: Plan, b: Plan) -> int:
    first, second = ({adapter.site: adapter.rank for adapter in plan.adapters} for plan in (a, b))
    return sum(first.get(site) != second.get(site) for site in {*first, *second})


def test_ranks_move_to_where_the_score_is_high_and_never_to_a_known_plan():
    allocation = context(ROOMY)
    plan = plan_of(Policy(method="lora", learning_rate=1e-2), allocation)
    seen = [plan]
    while (moved := moved_ranks(plan, allocation, bounds={"lora": (1, None)}, known=seen)) is not None:
        assert moved not in seen
        assert moved.trainable_params == plan.trainable_params == params_of(moved.adapters, allocation)
        assert n_changed(moved, plan) == 2
        seen.append(moved)
    ranks = {a.site: a.rank for a in plan.adapters}
    # Every move of one rank between two sites whose rank costs the same, the donor keeping one: by hand.
    cost = {site.name: METHODS["lora"].cost(site, 1, {}) for site in SITES}
    largest = {site.name: min(site.in_features, site.out_features) for site in SITES}
    moves = [
        (a, b)
        for a, b in itertools.permutations(ranks, 2)
        if cost[a] == cost[b] and ranks[a] > 1 and ranks[b] < largest[b]
    ]
    assert len(seen) - 1 == len(moves)
    first = {a.site: a.rank - ranks[a.site] for a in seen[1].adapters}
    assert (
        allocation.scores[max(first, key=lambda s: first[s])]
        >= allocation.scores[min(first, key=lambda s: first[s])]
    )


@pytest.mark.parametrize("rule", ["rslora", "constant"])
@pytest.mark.parametrize("bounds", [(1, None), (1, 3), (2, 4)])
def test_moves_keep_to_the_bounds_of_ranks_and_take_the_scale_of_the_new_rank(rule, bounds):
    allocation, lora = context(ROOMY), METHODS["lora"]
    policy = Policy(method="lora", exponent=0.5, options=(("scale_rule", rule),), learning_rate=1e-2)
    plan = plan_of(replace(policy, max_rank=bounds[1]), allocation)
    seen = [plan]
    while (moved := moved_ranks(plan, allocation, bounds={"lora": bounds}, known=seen)) is not None:
        seen.append(moved)
    ranks, cost = {a.site: a.rank for a in plan.adapters}, {s.name: lora.cost(s, 1, {}) for s in SITES}
    expected = set()
    for a, b in itertools.permutations(ranks, 2):
        changed = {**ranks, a: ranks[a] - 1, b: ranks[b] + 1}
        if cost[a] == cost[b] and changed[a] >= bounds[0] and changed[b] <= (bounds[1] or 8):
            expected.add(tuple((site, r, lora.scale(r, scale_rule=rule)) for site, r in changed.items()))
    assert len(set(ranks.values())) > 1 and expected
    assert {tuple((a.site, a.rank, a.scale) for a in moved.adapters) for moved in seen[1:]} == expected


def test_a_method_without_bounds_moves_no_rank():
    plan = plan_of(Policy(method="lora", learning_rate=1e-2), context(ROOMY))
    assert moved_ranks(plan, context(ROOMY), bounds={}, known=()) is None


@pytest.mark.parametrize("cap", [2, 3])
def test_refined_plans_keep_to_the_highest_rank(cap):
    limits = LimitSpec(max_rank=cap)
    space = limited(SPACE, limits, METHODS)
    outcome = run(levels(lora=0.9), trials=60, limits=limits, space=space).outcome
    moved = {p.plan for p in by_source(outcome, "refined")}
    assert moved and max(a.rank for p in outcome.proposals for a in p.plan.adapters) == cap


@pytest.mark.parametrize("rates", [(6e-3, 6e-3), (5e-3, 7e-3)])
def test_every_plan_of_a_mix_stays_in_its_own_range_of_rates(rates):
    """LoRA's own range is wider; so is that of plans with the same adapters from another arm."""
    parts = (MixPart(method="lora", placement=("q+v",), exponent=(0.0, 2.0), learning_rate=rates),)
    parts += (MixPart(method="ia3", placement=("mlp",)),)

    def truth(plan: Plan, fidelity: Fidelity) -> float:
        return 0.9 if len({a.method for a in plan.adapters}) > 1 else levels()(plan, fidelity)

    space = SPACE.model_copy(update={"mixes": {"m": parts}})
    outcome = run(truth, trials=60, space=space).outcome
    of_mix = [p for p in outcome.proposals if p.arm.methods == ("lora", "ia3")]
    sources = {p.source for p in of_mix}
    assert "refined" in sources and sources & {"sampler", "random"}
    assert all(rates[0] <= p.plan.learning_rate <= rates[1] for p in of_mix)
    assert {a.method for a in outcome.best.adapters} == {"lora", "ia3"}


@given(st.lists(st.floats(1e-4, 1e-1), min_size=1, max_size=5, unique=True), st.data())
def test_next_rate_lies_in_the_range_and_next_to_the_best(rates, data):
    losses = {rate: data.draw(st.floats(0, 1)) for rate in rates}
    rate = next_rate(losses, (1e-4, 1e-1))
    if rate is not None:
        best = min(losses, key=lambda r: (losses[r], r))
        assert 1e-4 <= rate <= 1e-1
        assert not any(min(rate, best) < other < max(rate, best) for other in losses)
