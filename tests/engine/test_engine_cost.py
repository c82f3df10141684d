"""What a search cost, in seconds and in R, the seconds of one full run of the baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import optuna
import pytest
from toys.engine import Display, Run, World, is_baseline, levels, method_of, problem, run

from autopeft.engine import search_cost
from autopeft.records import Cost, Fidelity, Measurement, Plan

optuna.logging.set_verbosity(optuna.logging.ERROR)


def cost_of(search: Run, earlier: Sequence[Measurement] = ()) -> Cost:
    return search_cost(
        search.outcome,
        earlier=earlier,
        schedule=problem().schedule,
        scoring_seconds=6.0,
        load_seconds=2.0,
    )


def test_measurements_that_the_outcome_does_not_use_count_in_what_the_run_took() -> None:
    search = run(levels())
    old = [replace(m, train_seconds=100.0, trained_steps=100) for m in search.at("search")[:3]]
    plain, whole = cost_of(search), cost_of(search, earlier=old)
    more = sum(m.total_seconds for m in old)
    assert whole.search_seconds == plain.search_seconds + more
    assert whole.total_seconds == plain.total_seconds + more
    assert whole.examples_seen == plain.examples_seen + 300 * problem().schedule.batch_size
    assert (whole.full_run_seconds, whole.sampled_share) == (
        plain.full_run_seconds,
        plain.sampled_share,
    )


def test_search_and_r_count_whole_runs_and_the_total_has_every_stage() -> None:
    """A full run: 30 steps of a second, 40 examples of the confirm split, and what is beside both."""
    search = run(World(quality=levels(), example_seconds=0.25, overhead_seconds=7.0))
    cost, r = cost_of(search), 30 + 40 * 0.25 + 7
    seconds = {
        split: sum(m.train_seconds + 0.25 * m.fidelity.eval_examples + 7 for m in search.at(split))
        for split in ("search", "confirm", "test")
    }
    assert min(seconds.values()) > 0
    assert cost.full_run_seconds == pytest.approx(r)
    assert (cost.search_seconds, cost.confirm_seconds) == pytest.approx(
        (seconds["search"], seconds["confirm"])
    )
    assert cost.full_runs == pytest.approx((6 + seconds["search"]) / r)
    assert cost.total_seconds == pytest.approx(6 + sum(seconds.values()))
    assert cost.total_seconds == pytest.approx(6 + search.world.seconds)
    assert cost.total_full_runs == pytest.approx(cost.total_seconds / r)


def test_r_of_short_runs_is_taken_to_full_length() -> None:
    """Without a confirmation the longest runs are those of the last rung: 12 steps and 100 examples."""
    search = run(World(quality=levels(), example_seconds=0.25, overhead_seconds=7.0), confirm="none")
    assert cost_of(search).full_run_seconds == pytest.approx(30 + 40 * 0.25 + 7)


# The limit of cost.


def cost_by_hand(search):
    """R of every measurement: steps and half an example of training for each that is evaluated.

    A step without adapters costs 0.35 of another. A full run has 30 steps of 4 examples.
    """
    total = 0.0
    for m in search.outcome.measurements:
        steps = 0 if m.fidelity.split == "test" else m.trained_steps * (1.0 if m.plan.adapters else 0.35)
        total += (steps + m.fidelity.eval_examples / 8) / 30
    return total


@pytest.mark.parametrize("trials", [12, 200])
@pytest.mark.parametrize("max_cost", [14.0, 20.0, 40.0])
def test_search_and_confirmation_together_keep_to_the_cost_limit(max_cost, trials):
    search = run(levels(), trials=trials, max_cost=max_cost)
    spent = cost_by_hand(search)
    assert spent <= max_cost
    assert {c.name for c in search.outcome.confirmations} >= {"best", "baseline"}
    if trials == 200:
        assert spent > 0.8 * max_cost or max_cost == 14  # what is allowed is used


def test_what_a_verdict_needs_is_measured_whatever_it_costs():
    outcome = run(levels(), trials=200, max_cost=0.1).outcome
    assert outcome.verdict.label != "none"
    assert len([p for p in outcome.proposals if p.source != "retuned"]) <= 12


def run_and_watch(**settings):
    """A world, a search in it, and the seconds since the start and told as left after each measurement."""

    class Clock(Display):
        def measured(
            self, measurement: Measurement, *, arm: str, is_baseline: bool, seconds_left: float | None
        ) -> None:
            super().measured(measurement, arm=arm, is_baseline=is_baseline, seconds_left=seconds_left)
            left.append((world.seconds, seconds_left or 0.0))

    left: list[tuple[float, float]] = []
    world = World(quality=levels(ia3=0.9))
    return world, run(world, display=Clock(), **settings), left


@pytest.mark.parametrize("trials", [12, 40])
@pytest.mark.parametrize("max_cost", [None, 14.0, 25.0])
def test_time_left_shrinks_to_what_the_run_still_takes(max_cost: float | None, trials: int) -> None:
    """It cannot foresee lower rates (4 runs of 12 steps) and whether a small plan is confirmed (2 of 30)."""

    world, _, left = run_and_watch(trials=trials, max_cost=max_cost)
    later = [(at, told) for at, told in left if at >= trials * 3]
    assert later
    for at, told in later:
        assert told == pytest.approx(world.seconds - at, rel=0.1, abs=4 * 12 + 2 * 30)


def close_behind(plan: Plan, fidelity: Fidelity) -> float:
    """IA3, which is small, is a hundredth behind the baselines, which lead."""
    return {"lora": 0.8, "ia3": 0.79, "head": 0.75}[method_of(plan)] + 0.005 * is_baseline(plan)


@pytest.mark.parametrize("tenths", range(40, 90, 2))
def test_every_confirming_run_counts(tenths):
    outcome = run(close_behind, trials=9, max_cost=tenths / 10).outcome
    ran = {m.plan for m in outcome.measurements if m.fidelity.split == "confirm"}
    assert ran and ran == {confirmation.plan for confirmation in outcome.confirmations}
