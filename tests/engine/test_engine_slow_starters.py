"""A method that short runs judge too low: it goes on, and is confirmed beside a baseline that leads."""

from __future__ import annotations

from dataclasses import replace

import pytest
from toys.engine import SPACE, Quality, Run, World, is_baseline, method_of, run

from autopeft.records import Fidelity, Measurement, Plan
from autopeft.space import MethodSpace, Space

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


class Slower(World):
    """A step of HiRA takes three seconds."""

    def measure(self, plan: Plan, fidelity: Fidelity) -> Measurement:
        made = super().measure(plan, fidelity)
        beside = 2 * made.train_seconds * (method_of(plan) == "hira")
        self.seconds += beside
        return replace(made, train_seconds=made.train_seconds + beside)


@pytest.mark.parametrize("limit", [1800, 2100, 2160, 2400, 2520, 2700, 4200])
def test_under_a_time_limit_it_takes_no_verdict_away(limit):
    made = searched(Slower(quality=slow(after=0.9)), limit_seconds=limit)
    assert made.world.seconds <= limit
    assert made.outcome.verdict.label == ("better" if limit == 4200 else "default kept")
