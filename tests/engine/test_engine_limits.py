"""How much a search tries: effort, trials, seeds, limits of time and cost, and what it cost afterwards."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys.engine import STEP_SECONDS, TIGHT, Display, Run, World, kind_of, levels, problem, run

from autopeft.commands.forecast import planned_runs, repeated_steps
from autopeft.engine import Batch, Driver
from autopeft.executors import Serial
from autopeft.report.cost import search_cost
from autopeft.train.rates import short_steps
from autopeft.types import Measurement, Status

# Of an example: half of what training on one takes, of which a step has four.
SECONDS = 0.5 * STEP_SECONDS / 4


def timed(truth=None) -> World:
    """A world whose clock agrees with the cost by steps and examples."""
    return World(truth=truth or levels(), example_seconds=SECONDS)


# A full run: 200 steps and 100 examples. A short one: 75 and 100. A test: 50 examples.
FULL, SHORT, TEST = 200 * STEP_SECONDS + 100 * SECONDS, 75 * STEP_SECONDS + 100 * SECONDS, 50 * SECONDS


@pytest.mark.parametrize(
    ("settings", "n_short", "in_full", "n_seeds"),
    [
        ({"effort": "quick"}, 0, {"q+v", "ia3"}, 1),
        ({"trials": 4}, 4, {"q+v", "ia3"}, 1),
        ({}, 9, {"q+v", "ia3"}, 1),
        ({"effort": "thorough", "trials": 6}, 6, {"q+v", "ia3", "head"}, 3),
        ({"effort": "thorough", "trials": 6, "seeds": 2}, 6, {"q+v", "ia3", "head"}, 2),
        ({"effort": "quick", "trials": 4}, 4, {"q+v", "ia3"}, 1),
        ({"trials": 5}, 5, {"q+v", "ia3"}, 1),
        ({"trials": 3, "seeds": 2}, 3, {"q+v", "ia3"}, 2),
        ({"trials": 2}, 2, {"q+v", "ia3"}, 1),
        ({"trials": 1}, 1, {"q+v", "ia3"}, 1),
    ],
)
def test_effort_trials_and_seeds_say_how_much_is_tried(
    settings: dict[str, Any], n_short: int, in_full: set[str], n_seeds: int
) -> None:
    search = run(levels(), **settings)
    assert len(search.at("search")) == len(search.outcome.proposals) == n_short
    assert search.kinds("confirm") == dict.fromkeys(in_full, n_seeds)
    assert {full.seeds for full in search.outcome.full_runs} == {tuple(range(n_seeds))}
    assert len(search.at("test")) == 2 * n_seeds


def test_a_baseline_without_a_short_run_stands_in_for_one_that_diverged() -> None:
    outcome = run(levels(**{"q+v": Status.DIVERGED}), trials=1).outcome
    assert kind_of(outcome.baseline) == "lora"


@pytest.mark.parametrize("limit", [0.01, 0.5, 1.1, 1.5, 2.0, 2.2, 2.6, 3.0, 3.3, 4.0, 4.7, 5.0, 7.0])
@pytest.mark.parametrize("kind", ["max_cost", "max_seconds"])
def test_a_limit_shortens_the_search_and_never_a_full_run(kind: str, limit: float) -> None:
    search = run(timed(), **{kind: limit * (FULL if kind == "max_seconds" else 1)}, trials=8)
    assert {m.fidelity.train_steps for m in search.at("confirm")} == {200}
    assert search.kinds("confirm")["q+v"] == 1 and search.kinds("test")["q+v"] == 1
    # Before one run is timed, a limit of time cannot say what it pays.
    least = FULL + TEST + (SHORT if kind == "max_seconds" else 0)
    assert search.world.seconds <= max(limit * FULL, least)
    if limit * FULL >= SHORT + 2 * (FULL + TEST):
        assert search.kinds("confirm").total() == 2  # a short run leaves room for both
    if limit * FULL < least:
        assert len(search.at("search")) == (kind == "max_seconds")
        assert search.kinds("confirm") == {"q+v": 1} and search.outcome.best == search.outcome.baseline


@pytest.mark.parametrize("kind", ["max_cost", "max_seconds"])
def test_a_larger_limit_pays_more(kind: str) -> None:
    unit = FULL if kind == "max_seconds" else 1
    seconds = [run(timed(), **{kind: tenths / 10 * unit}, trials=8).world.seconds for tenths in range(5, 95)]
    assert seconds == sorted(seconds)
    assert seconds[-1] == run(timed(), trials=8).world.seconds


@pytest.mark.parametrize("limit", [3.0, 4.0, 5.0, 6.5])
def test_smaller_budgets_keep_to_the_limits_too(limit: float) -> None:
    search = run(timed(), max_cost=limit, sizes=3)
    assert search.world.seconds <= limit * FULL
    assert len(search.outcome.sizes) < 2
    assert len(run(timed(), sizes=3).outcome.sizes) == 2


def test_a_limit_without_a_short_run_is_told(caplog: pytest.LogCaptureFixture) -> None:
    run(levels())
    assert not caplog.records
    run(levels(), max_cost=1.0)
    assert "0 of 9" in caplog.messages[0] and "0 of 1" in caplog.messages[1]


# What is planned, and what is left.

SETTINGS: list[dict[str, Any]] = [
    {},
    {"effort": "quick"},
    {"effort": "quick", "sizes": 2},
    {"effort": "thorough", "trials": 6, "sizes": 2},
    {"trials": 2, "sizes": 3, "seeds": 2},
    {"trials": 8, "max_params": TIGHT, "n_examples": (100, 100, 0)},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_planned_runs_bound_what_a_search_does(settings: dict[str, Any]) -> None:
    search = run(levels(), **settings)

    def counted(runs: Any) -> Counter[tuple[str, int]]:
        return Counter((fidelity.split, fidelity.train_steps) for fidelity in runs)

    done = counted(fidelity for _, fidelity in search.world.calls)
    assert done <= counted(planned_runs(search.problem))


@pytest.mark.parametrize(
    "settings", [SETTINGS[1], SETTINGS[2], {"trials": 4}, {"trials": 4, "seeds": 3, "sizes": 3}], ids=str
)
def test_full_runs_do_not_repeat_the_steps_of_their_own_short_runs(settings: dict[str, Any]) -> None:
    search = run(World(truth=levels(), goes_on=True), **settings)
    asked = sum(m.fidelity.train_steps for m in search.records if m.fidelity.split != "test")
    assert repeated_steps(search.problem) == asked - sum(m.trained_steps for m in search.records)


@pytest.mark.parametrize("settings", [*SETTINGS, {"max_cost": 1.0}, {"max_cost": 2.5}], ids=str)
def test_nothing_is_left_after_the_last_run(settings: dict[str, Any]) -> None:
    assert run(timed(), **settings).display.left[-1] == pytest.approx(0.0)


@pytest.mark.parametrize(
    "settings", [{}, {"seeds": 3}, {"sizes": 2}, {"effort": "quick", "trials": None}], ids=str
)
def test_the_time_that_is_left_is_that_of_the_planned_runs(settings: dict[str, Any]) -> None:
    search = run(replace(timed(), goes_on=True), **{"trials": 4, **settings})
    taken = [m.total_seconds for m in search.display.shown]
    assert search.display.left[1:] == pytest.approx(
        [sum(taken[place:]) for place in range(2, len(taken) + 1)], abs=1e-6
    )


def test_a_limit_that_pays_no_search_leaves_the_time_of_one_full_run() -> None:
    display = run(timed(), max_seconds=FULL / 2).display
    assert display.left[0] is None  # the planned runs, of which the limit pays none
    rest = FULL - problem().lengths.kept_steps * STEP_SECONDS  # the full run goes on from the short one
    left = display.left_at["full runs"]
    # Of baseline and challenger, if one is paid.
    assert left is not None and rest + TEST <= left <= rest + 2 * TEST


def test_the_time_left_on_many_workers_is_no_shorter_than_a_run() -> None:
    left = []
    for n_workers in (1, 2, 8):
        driver = idle_driver(problem(effort="quick", n_examples=(100, 100, 0)))
        driver.executor, driver.progress = SimpleNamespace(n_workers=n_workers), Display()
        (_, _, plan), *_ = problem().listed
        at = driver.problem.lengths.full(seed=1)
        driver.measured[plan, at] = timed().measure(plan, at)
        driver.run(iter_of(Batch(phase="full runs", n_runs=2)))
        left.append(driver.progress.left_at["full runs"])
    assert left == pytest.approx([2 * FULL, FULL, FULL])


def iter_of(batch: Batch) -> Any:
    """A search that asks for one batch."""
    yield batch
    return run(levels()).outcome


def idle_driver(asked: Any) -> Driver:
    """A driver that measures nothing: a test gives it the measurements."""
    return Driver(problem=asked, executor=Serial(), measure_one=None, progress=None)  # type: ignore[arg-type]


def test_a_run_takes_as_long_as_those_with_adapters_that_finished() -> None:
    asked = problem()
    (_, _, lora), (_, _, diverged), *_ = asked.listed
    driver = idle_driver(asked)
    ends = (
        (lora, Status.COMPLETE, 400.0),
        (diverged, Status.DIVERGED, 4.0),
        (asked.head[1], Status.COMPLETE, 40.0),
    )
    at = asked.lengths.full(seed=0)
    for plan, status, seconds in ends:
        driver.measured[plan, at] = Measurement(
            plan=plan, fidelity=at, status=status, train_seconds=seconds, trained_steps=200
        )
    assert driver.estimate_seconds(at) == 400


def estimated(measured: list[tuple[Any, float, float]], asked: Any) -> float | None:
    """Estimate a run after some of 200 steps: fidelity, seconds per step, seconds of the evaluation."""
    made = problem()
    driver = idle_driver(made)
    plan = made.listed[0][2]
    for at, pace, evaluation in measured:
        driver.measured[plan, at] = Measurement(
            plan=plan,
            fidelity=at,
            status=Status.COMPLETE,
            train_seconds=pace * 200,
            trained_steps=200,
            eval_seconds=evaluation,
        )
    return driver.estimate_seconds(asked)


def test_an_evaluation_takes_as_long_as_those_on_its_own_split() -> None:
    """Short runs of a generating task write no texts."""
    short, full = problem().lengths.short(seed=0), problem().lengths.full(seed=0)
    measured = [(short, 2.0, 1.0), (full, 2.0, 50.0)]
    assert estimated(measured, full) == pytest.approx(full.train_steps * 2 + 50)
    assert estimated(measured, short) == pytest.approx(short.train_steps * 2 + 1)


# What it cost.


def cost_of(search: Run, earlier: tuple[Measurement, ...] = ()) -> Any:
    paid = (*search.outcome.measurements, *earlier)
    return search_cost(search.outcome, paid=paid, scoring_seconds=6.0, load_seconds=2.0)


@pytest.mark.parametrize("settings", [{}, {"seeds": 2, "sizes": 2}, {"effort": "quick"}], ids=str)
def test_every_second_is_in_the_cost_once_and_r_is_a_full_run_of_the_baseline(
    settings: dict[str, Any],
) -> None:
    world = World(truth=levels(), example_seconds=SECONDS, overhead_seconds=7.0, goes_on=True)
    cost = cost_of(run(world, **settings))
    assert cost.full_run_seconds == pytest.approx(FULL + 7)  # also of one that went on from its short run
    assert cost.total_seconds == pytest.approx(6 + world.seconds)
    stages = (cost.sensitivity_seconds, cost.search_seconds, cost.full_seconds, cost.test_seconds)
    assert math.fsum(stages) == pytest.approx(cost.total_seconds)
    beside = 7 * len(world.calls) + 6
    assert cost.train_seconds + cost.eval_seconds + beside == pytest.approx(cost.total_seconds)
    assert cost.total_full_runs == pytest.approx(cost.total_seconds / (FULL + 7))


def test_r_is_a_finished_run_of_the_challenger_if_the_baseline_is_not_trained() -> None:
    outcome = run(timed()).outcome
    runs = [
        replace(m, train_seconds=0.0, trained_steps=0) if m.plan == outcome.baseline else m
        for m in outcome.measurements
    ]
    of_challenger = next(m for m in runs if m.plan == outcome.challenger and m.fidelity.split == "confirm")
    diverged = replace(of_challenger, status=Status.DIVERGED, train_seconds=1.0)
    changed = replace(outcome, measurements=(*runs, diverged))
    cost = search_cost(changed, paid=changed.measurements, scoring_seconds=0.0, load_seconds=0.0)
    assert cost.full_run_seconds == pytest.approx(FULL)


def test_runs_that_the_outcome_does_not_use_are_paid_too() -> None:
    search = run(timed())
    more, usual = cost_of(search, tuple(search.records[:3])), cost_of(search)
    assert more.total_seconds - usual.total_seconds == pytest.approx(3 * SHORT)
    assert more.search_seconds - usual.search_seconds == pytest.approx(3 * SHORT)
    assert more.full_run_seconds == usual.full_run_seconds


# Lengths.


@given(st.integers(1, 100_000))
def test_short_runs_are_75_steps_or_a_twentieth_within_two_fifths_of_a_full_run(full_steps: int) -> None:
    steps = short_steps(full_steps)
    assert 1 <= steps <= max(1, 0.4 * full_steps + 0.5)
    assert steps == max(75, round(0.05 * full_steps)) or steps == max(1, round(0.4 * full_steps))
    assert steps <= short_steps(full_steps + 1)
