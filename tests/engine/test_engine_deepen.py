"""Full runs of the baselines where no other plan leads."""

from __future__ import annotations

import optuna
import pytest
from toys.engine import World, is_baseline, problem, run

from autopeft.records import Fidelity, Plan

optuna.logging.set_verbosity(optuna.logging.ERROR)

FULL = 30  # steps


def with_a_cliff(plan: Plan, fidelity: Fidelity) -> float | None:
    """Baselines lead. In short runs higher learning rates are better, and in full those above 6e-3 fail."""
    if not is_baseline(plan):
        return 0.3
    if fidelity.train_steps < FULL:
        return 0.6 + 10 * plan.learning_rate
    return None if plan.learning_rate > 6e-3 else 0.8


def full_runs(outcome_run):
    return [m.plan for m in outcome_run.at("search", FULL)]


def test_where_a_baseline_leads_full_runs_find_a_rate_that_short_runs_judge_too_slow():
    made = run(with_a_cliff, trials=16)
    ran = full_runs(made)
    assert len({plan.adapters for plan in ran}) == 2, "each placement"
    assert made.outcome.best == made.outcome.baseline
    best = made.outcome.baseline.learning_rate
    short = max(made.at("search", 12), key=lambda m: m.metric).plan
    assert best < 6e-3 < short.learning_rate, "the short runs would take a rate that fails"
    (confirmed,) = [c for c in made.outcome.confirmations if c.name == "baseline"]
    assert confirmed.metric_mean == pytest.approx(0.8)


@pytest.mark.parametrize("max_cost", [4.0, 5.0, 6.0, 8.0])
def test_full_runs_keep_to_the_cost_and_leave_a_confirming_run(max_cost):
    made = run(with_a_cliff, trials=8, max_cost=max_cost)
    schedule = problem().schedule
    cost = sum(schedule.cost_of(m) for m in made.outcome.measurements)
    without = sum(schedule.cost_of(m) for m in made.outcome.measurements if m.plan not in full_runs(made))
    assert cost <= max_cost or not full_runs(made), "a verdict is measured whatever it costs"
    assert made.at("confirm") and without > 0
    assert len(full_runs(made)) != 1, "one alone compares nothing"


def test_a_resumed_search_repeats_no_full_run():
    first = run(with_a_cliff, trials=16)
    known = {(m.plan, m.fidelity): m for m in first.outcome.measurements}
    world = World(quality=with_a_cliff)
    again = run(world, trials=16, known=known)
    assert not world.calls and again.outcome.best == first.outcome.best
