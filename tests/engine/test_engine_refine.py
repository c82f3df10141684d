"""Small steps from the best plan: ranks that move and learning rates, within the bounds of its arm."""

from __future__ import annotations

import itertools
from dataclasses import replace

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys.engine import METHODS, ROOMY, SITES, SPACE, context, levels, run

from autopeft.engine.propose import moved_ranks
from autopeft.engine.rates import next_rate
from autopeft.records import Fidelity, LimitSpec, Plan
from autopeft.space import MixPart, Policy, limited, plan_of

optuna.logging.set_verbosity(optuna.logging.ERROR)


def by_source(outcome, *sources):
    return [proposal for proposal in outcome.proposals if proposal.source in sources]


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
