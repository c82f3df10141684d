"""A time limit: it is looked at before every measurement, and a verdict at half length comes before none."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace

import optuna
import pytest
from optuna.storages import InMemoryStorage
from toys.engine import Display, World, is_baseline, levels, method_of, run

from autopeft.errors import StoppedError

FULL_VERDICT = 4 * 30  # seconds of two full seeds of two plans
NEEDED = 7 * 3 + 2 * 9 + 15  # the plans that every search measures, two of them further, and the report


@pytest.mark.parametrize("limit_seconds", range(60, 400, 40))
def test_a_limit_holds_and_there_is_a_verdict_where_two_full_seeds_of_two_plans_fit(limit_seconds):
    world = World(quality=levels())
    try:
        verdict = run(world, trials=60, limit_seconds=limit_seconds).outcome.verdict
    except StoppedError:
        verdict = None
    assert world.seconds <= 1.1 * limit_seconds + 5
    if limit_seconds >= FULL_VERDICT + 10:
        assert verdict is not None and verdict.label != "none"
    if limit_seconds >= 2 * FULL_VERDICT + NEEDED:
        assert verdict.fidelity == "full"


def test_half_length_is_tried_before_no_verdict_and_said(caplog):
    verdict = run(levels(), limit_seconds=FULL_VERDICT).outcome.verdict
    assert (verdict.fidelity, verdict.n_seeds) == ("half", 2)
    assert "confirmed by runs of half length" in caplog.text


@pytest.mark.parametrize("limit_seconds", [1, 20])
def test_too_short_a_time_ends_without_a_verdict(limit_seconds):
    world = World(quality=levels())
    with pytest.raises(StoppedError, match="no verdict yet; continue with --resume and a larger --max-time"):
        run(world, limit_seconds=limit_seconds)
    assert 0 < world.seconds <= limit_seconds + 5


def test_a_search_that_was_cut_short_goes_on_as_if_it_had_not_been():
    short = run(levels(), trials=30, limit_seconds=150)
    known = {(m.plan, m.fidelity): m for m in short.records}
    ample = run(levels(), trials=30)
    assert run(levels(), trials=30, known=known).outcome == ample.outcome


@pytest.mark.parametrize("limit_seconds", [None, 150, 250, 400])
def test_a_finished_search_gives_its_outcome_again_whatever_time_is_left(limit_seconds):
    """What is stored takes no time; a limit that has passed allows no measurement beside it."""
    finished = run(levels(), trials=30, limit_seconds=limit_seconds)
    known = {(m.plan, m.fidelity): m for m in finished.records}
    late = World(quality=levels(), seconds=9.0)
    again = run(late, trials=30, known=known, limit_seconds=1.0)
    assert late.calls == []
    assert again.outcome == finished.outcome


def test_trials_and_proposals_agree_where_time_ended_the_first_rung_and_a_plan_came_later():
    """Proposals that were dropped are no trials; the baseline at a lower rate comes after all others."""

    def fails_once_confirmed(plan, fidelity):
        if is_baseline(plan):
            return None if fidelity.split == "confirm" and plan.learning_rate > 3e-3 else 0.8
        return 0.3 if method_of(plan) == "head" else 0.5

    storage = InMemoryStorage()
    world = World(quality=fails_once_confirmed, overhead_seconds=10.0)
    outcome = run(world, limit_seconds=320, storage=storage).outcome
    assert outcome.proposals[-1].source == "retuned"
    trials = optuna.load_study(study_name="autopeft", storage=storage).trials
    plans = {trial.number: trial.user_attrs["plan"] for trial in trials}
    assert plans == {proposal.trial: proposal.plan.digest for proposal in outcome.proposals}
    losses = {m.plan: m.loss for m in outcome.measurements if m.fidelity.split == "search"}
    by_number = {trial.number: trial for trial in trials}
    for proposal in outcome.proposals:
        assert proposal.plan not in losses or by_number[proposal.trial].intermediate_values


@dataclass
class Clock(Display):
    """Remembers the time left that was shown."""

    left: list[float | None] = None

    def measured(self, measurement, *, arm, is_baseline, seconds_left):
        self.left = [*(self.left or []), seconds_left]


def test_no_more_time_is_shown_as_left_than_the_limit_leaves():
    display = Clock()
    run(levels(), trials=60, limit_seconds=200, display=display)
    assert 0 <= max(display.left) <= 200 - 3


def test_the_test_split_has_its_time():
    """The test split of two plans takes 40 s: a verdict comes where it fits too, and not much later."""
    for limit_seconds in range(100, 300, 20):
        world = World(quality=levels(), example_seconds=0.01)
        with contextlib.suppress(StoppedError):
            run(world, limit_seconds=limit_seconds, n_confirm=10, n_test=1000)
        assert world.seconds <= 1.1 * limit_seconds + 5


@dataclass(kw_only=True)
class Slowing(World):
    """A world whose machine takes twice as long for everything from a second on."""

    slow_from: float

    def measure(self, plan, fidelity):
        before = self.seconds
        measured = super().measure(plan, fidelity)
        if before < self.slow_from:
            return measured
        self.seconds += self.seconds - before
        names = ("train_seconds", "eval_seconds", "overhead_seconds")
        return replace(measured, **{name: 2 * getattr(measured, name) for name in names})


@pytest.mark.parametrize("slow_share", [0.3, 0.7])
def test_a_machine_that_becomes_half_as_fast_makes_a_search_late_by_one_pair_of_runs_at_most(slow_share):
    for limit_seconds in range(150, 400, 50):
        world = Slowing(quality=levels(), slow_from=slow_share * limit_seconds)
        with contextlib.suppress(StoppedError):
            run(world, trials=60, limit_seconds=limit_seconds)
        assert world.seconds <= 1.1 * limit_seconds + 5 + 2 * 30  # a pair takes 60 seconds more than before
