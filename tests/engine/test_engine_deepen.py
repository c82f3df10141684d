"""Full runs of the baselines where no other plan leads."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import optuna
import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState
from toys.engine import World, baseline_plans, is_baseline, levels, method_of, problem, run

from autopeft.engine import stretched
from autopeft.engine.deepen import deepened
from autopeft.engine.finalists import Chosen
from autopeft.engine.study_log import STUDY
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


def test_in_the_study_trials_of_the_last_rung_are_complete_with_the_loss_there():
    storage = InMemoryStorage()
    made = run(with_a_cliff, trials=16, storage=storage)
    last = {m.plan.digest: m.loss for m in made.at("search", 12) if m.loss is not None}
    trials = optuna.load_study(study_name=STUDY, storage=storage).trials
    complete = {t.user_attrs["plan"]: t.value for t in trials if t.state is TrialState.COMPLETE}
    assert len(full_runs(made)) > 1 and {plan: complete.get(plan) for plan in last} == last
    assert set(complete) <= {*last, *(plan.digest for plan in full_runs(made))}


def test_where_a_rival_leads_no_baseline_is_trained_in_full_before_the_confirmation():
    assert not full_runs(run(levels(lora=0.5, ia3=0.9), trials=16))


@pytest.mark.parametrize("confirm", ["none", "full"])
def test_full_runs_are_paid_by_the_confirmation(confirm):
    made = run(with_a_cliff, trials=16, confirm=confirm)
    assert bool(full_runs(made)) is (confirm == "full")


@pytest.mark.parametrize("full_steps", range(30, 50))  # 70 % of which round up or down
def test_the_longest_last_rung_stands_for_full_runs(full_steps):
    short = replace(problem().schedule, full_steps=full_steps, confirm_steps=full_steps)
    schedule = stretched(short, n_first=4, max_cost=1000.0)
    (plan, *_) = baseline_plans()
    chosen = Chosen(plan, plan, plan)
    study_log = SimpleNamespace(ledger=None)  # of which nothing is asked
    assert deepened(replace(problem(), schedule=schedule), study_log, {}, chosen) is chosen


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


def test_without_learning_a_baseline_goes_before_other_plans_and_low_rates_before_high_ones():
    def flat(plan: Plan, fidelity: Fidelity) -> float:
        return 0.5 + 1 / fidelity.train_steps + (0.001 if not is_baseline(plan) else 0.0)

    made = run(flat, trials=16)
    assert made.outcome.best == made.outcome.baseline
    assert full_runs(made)


def test_the_smallest_plan_is_chosen_by_runs_of_one_length():
    """IA3 is a hundredth behind the default at every length, and full runs gain a fifth."""

    def truth(plan, fidelity):
        level = 0.8 if fidelity.train_steps == FULL else 0.6
        return (
            level
            - {"lora": 0.0, "ia3": 0.01, "head": 0.4}[method_of(plan)]
            + (0.005 if is_baseline(plan) else 0)
        )

    made = run(truth, trials=16)
    assert made.outcome.best == made.outcome.baseline and full_runs(made)
    assert method_of(made.outcome.smallest) == "ia3"
