"""Where rows repeat, full runs of the baseline decide how fast the task head learns, for all plans."""

from __future__ import annotations

from collections import Counter

import pytest
from toys.engine import World, kind_of, run

from autopeft.commands.forecast import planned_runs
from autopeft.report.cost import search_cost
from autopeft.types import Fidelity, Plan, Status

USUAL, SLOW = 1.0, 0.25


def truth(slow: float | Status, usual: float | Status = 0.6):
    """IA3 is better than LoRA by 0.1; a full run with a slower head has the level `slow`."""

    def of(plan: Plan, fidelity: Fidelity) -> float | Status:
        level = slow if plan.head_factor == SLOW else usual
        if fidelity.split == "search":
            level = 0.5
        if isinstance(level, Status):
            return level
        return level + 0.1 * (kind_of(plan) == "ia3") - 0.4 * (kind_of(plan) == "hira")

    return of


@pytest.mark.parametrize(("slow", "chosen"), [(0.7, SLOW), (0.5, USUAL), (Status.DIVERGED, USUAL)])
def test_all_finished_plans_have_the_factor_of_the_lower_loss(slow, chosen):
    found = run(truth(slow), head_factors=(USUAL, SLOW))
    outcome = found.outcome
    assert {plan.head_factor for plan in (outcome.best, outcome.baseline, outcome.challenger)} == {chosen}
    assert kind_of(outcome.best) == "ia3"
    tried = Counter((kind_of(m.plan), m.plan.head_factor) for m in found.at("confirm"))
    baseline = kind_of(outcome.baseline)
    assert tried == {(baseline, USUAL): 1, (baseline, SLOW): 1, ("ia3", chosen): 1}
    assert {m.plan.head_factor for m in found.at("search")} == {USUAL}


def test_a_baseline_of_which_no_head_can_be_trained_is_replaced_by_the_next():
    def diverging(plan: Plan, fidelity: Fidelity) -> float | Status:
        if kind_of(plan) == "q+v" and fidelity.split == "confirm":
            return Status.DIVERGED
        return truth(0.5)(plan, fidelity) + 0.05 * (kind_of(plan) == "q+v")

    outcome = run(diverging, head_factors=(USUAL, SLOW)).outcome
    assert (kind_of(outcome.baseline), outcome.baseline.head_factor) == ("lora", USUAL)


def test_both_heads_have_one_seed_and_the_better_one_all():
    found = run(truth(0.7), head_factors=(USUAL, SLOW), seeds=3)
    seeds = Counter((kind_of(m.plan), m.plan.head_factor) for m in found.at("confirm"))
    baseline = kind_of(found.outcome.baseline)
    assert seeds == {(baseline, USUAL): 1, (baseline, SLOW): 3, ("ia3", SLOW): 3}


def test_the_further_run_is_planned_shown_and_counted():
    world = World(truth=truth(0.7))
    found = run(world, head_factors=(USUAL, SLOW), trials=4)
    assert Counter(planned_runs(found.problem)) == Counter(m.fidelity for m in found.outcome.measurements)
    assert ("full runs", 3) in found.display.phases
    cost = search_cost(found.outcome, paid=found.records)
    assert cost.total_seconds == pytest.approx(world.seconds)
    assert found.display.left[-1] == 0


def test_a_limit_leaves_out_the_challenger_before_the_slower_head():
    found = run(truth(0.7), head_factors=(USUAL, SLOW), max_cost=2.5)
    assert [m.plan.head_factor for m in found.at("confirm")] == [USUAL, SLOW]
    assert found.outcome.best.head_factor == SLOW
    least = run(truth(0.7), head_factors=(USUAL, SLOW), max_cost=1.2)
    assert [m.plan.head_factor for m in least.at("confirm")] == [USUAL]


def test_a_limit_that_covers_all_full_runs_keeps_them_for_the_challenger():
    found = run(truth(0.7), head_factors=(USUAL, SLOW), max_cost=4.5)
    first, again, challenger = (kind_of(m.plan) for m in found.at("confirm"))
    assert first == again and challenger == "ia3"
