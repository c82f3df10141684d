"""A method that short runs judge too low: it goes on, and is confirmed beside a baseline that leads."""

from __future__ import annotations

from dataclasses import replace

import pytest
from toys.engine import METHODS, SPACE, Quality, Run, World, is_baseline, method_of, problem, run

from autopeft.engine.queue import enqueued
from autopeft.records import Fidelity, Measurement, Plan
from autopeft.space import MethodSpace, Space, load

RUNGS, FULL = (30, 75), 200  # steps
WITH_HIRA = Space(about="toy", methods={**SPACE.methods, "hira": MethodSpace(placement=("all",))})


def slow(*, after: float, before: float = 0.6) -> Quality:
    """A baseline leads with 0.7, IA3 is behind it; HiRA is last at the first rung, and `after` in full."""

    def quality(plan: Plan, fidelity: Fidelity) -> float:
        if method_of(plan) != "hira":
            level = {"lora": 0.65, "ia3": 0.6, "head": 0.3}[method_of(plan)]
            return level + 0.05 * is_baseline(plan)
        return {RUNGS[0]: 0.35, FULL: after}.get(fidelity.train_steps, before)

    return quality


def searched(quality: World | Quality, **settings) -> Run:
    given = {"space": WITH_HIRA, "rung_steps": RUNGS, "full_steps": FULL, "trials": 9, **settings}
    return run(quality, **given)


def test_it_goes_on_though_it_is_the_last_at_the_first_rung_and_is_handed_over_where_it_wins():
    made = searched(slow(after=0.9))
    first = {m.plan: m.metric for m in made.at("search", RUNGS[0]) if m.plan.adapters}
    assert method_of(min(first, key=lambda plan: first[plan])) == "hira"
    assert method_of(made.outcome.best) == "hira" and made.outcome.verdict.label == "better"
    assert is_baseline(made.outcome.baseline)


@pytest.mark.parametrize(("settings", "is_said"), [({}, True), ({"confirm_steps": 100}, False)])
@pytest.mark.parametrize("after", [0.65, 0.9])
def test_one_sentence_says_why_it_was_compared_though_the_baseline_led(after, settings, is_said):
    """With confirming runs of half length it is not compared."""
    outcome = searched(slow(after=after), **settings).outcome
    said = "The baseline came first in the trial runs. Short runs say little of plans that start slowly"
    assert sum(sentence.startswith(said) for sentence in outcome.sentences) == is_said


def test_nothing_is_said_of_a_slow_one_that_leads():
    outcome = searched(slow(after=0.9, before=0.8)).outcome
    assert method_of(outcome.best) == "hira"
    assert not any("start slowly" in sentence for sentence in outcome.sentences)


def test_where_it_does_not_catch_up_the_baseline_is_kept():
    made = searched(slow(after=0.65))
    assert made.outcome.best == made.outcome.baseline
    assert made.outcome.verdict.label == "default kept"
    assert "hira" in {method_of(m.plan) for m in made.at("confirm")}


@pytest.mark.parametrize(
    ("settings", "before"),
    [
        ({"confirm": "none"}, 0.6),  # nothing would show what longer runs make of it
        ({"rung_steps": (30, 140)}, 0.6),  # a rung of 70 % of a full run ranks as a full run does
        ({"confirm_steps": 100}, 0.6),  # as a rung of 75 steps does beside confirming runs of half length
        ({}, 0.1),  # far behind
        ({"full_steps": 149}, 0.6),  # too brief to catch up
    ],
)
def test_it_is_no_rival_where_nothing_speaks_for_it(settings, before):
    made = searched(slow(after=0.9, before=before), **settings)
    assert is_baseline(made.outcome.best)
    assert "hira" not in {method_of(m.plan) for m in made.at("confirm")}


def test_what_wins_has_a_small_plan_that_is_smaller_than_itself_and_none_without_one():
    assert searched(slow(after=0.9)).outcome.smallest == searched(slow(after=0.9)).outcome.best

    def quality(plan: Plan, fidelity: Fidelity) -> float:
        return 0.7 if method_of(plan) == "ia3" else slow(after=0.9)(plan, fidelity)

    outcome = searched(quality).outcome
    assert (method_of(outcome.best), method_of(outcome.smallest)) == ("hira", "ia3")
    assert 2 * outcome.smallest.trainable_params <= outcome.best.trainable_params


def test_a_small_plan_that_beats_the_baseline_is_handed_over_where_the_slow_one_does_not():
    def quality(plan: Plan, fidelity: Fidelity) -> float:
        if method_of(plan) == "ia3":
            return 0.9 if fidelity.split == "confirm" else 0.69
        return slow(after=0.65)(plan, fidelity)

    outcome = searched(quality, seeds=3, n_confirm=200).outcome
    assert (method_of(outcome.best), outcome.verdict.label) == ("ia3", "better")


class Slower(World):
    """A step of HiRA takes three seconds."""

    def measure(self, plan: Plan, fidelity: Fidelity) -> Measurement:
        made = super().measure(plan, fidelity)
        beside = 2 * made.train_seconds * (method_of(plan) == "hira")
        self.seconds += beside
        return replace(made, train_seconds=made.train_seconds + beside)


@pytest.mark.parametrize("limit", [1800, 2100, 2160, 2400, 2520, 2700, 3600])
def test_under_a_time_limit_it_takes_no_verdict_away(limit):
    made = searched(Slower(quality=slow(after=0.9)), limit_seconds=limit)
    assert made.world.seconds <= limit
    assert made.outcome.verdict.label == ("better" if limit == 3600 else "default kept")


def test_a_plan_that_leads_the_baseline_is_not_given_up_for_it():
    def quality(plan: Plan, fidelity: Fidelity) -> float:
        return 0.8 if method_of(plan) == "ia3" else slow(after=0.9)(plan, fidelity)

    assert method_of(searched(quality).outcome.best) == "ia3"


@pytest.mark.parametrize("full_steps", [149, 150])
def test_it_comes_third_of_the_usual_arms_and_last_where_runs_are_brief(full_steps):
    space = load("default", known_methods=METHODS)
    queue = enqueued(problem(space=space, trials=40, full_steps=full_steps))
    usual = [arm.label for arm, _ in queue if arm.kind == "usual"]
    assert usual.index("hira/all") == (2 if full_steps == 150 else len(usual) - 1)
