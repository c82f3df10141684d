"""`--max-cost`: what a run may cost in all, and how search and confirmation divide it."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest

from autopeft.pipeline.allowance import confirm_cost, usual_cost, warn_of_cost, within_cost
from autopeft.pipeline.prepare import prepare
from autopeft.pipeline.problem import schedule_of
from autopeft.records import (
    BudgetSpec,
    ConfirmSpec,
    DataSpec,
    ModelSpec,
    RunSpec,
    SearchSpec,
    TaskSpec,
    with_setting,
)

NOTHING = frozenset[str]()


def rule_of(run, name):
    (rule,) = [decision.rule for decision in run.decisions if decision.setting == name]
    return rule


@pytest.fixture(scope="module")
def prepared(model_dir, data_dir):
    spec = RunSpec(
        model=ModelSpec(id=str(model_dir)),
        data=DataSpec(source=str(data_dir)),
        budget=BudgetSpec(requested="20%"),
        task=TaskSpec(batch_size=8),
    )
    return prepare(spec)


def decided(run):
    return {decision.setting: decision.value for decision in run.decisions}


@pytest.mark.parametrize("full_steps", [110, 299, 300, 600])
def test_a_run_costs_what_nine_proposals_and_their_confirmation_take(prepared, full_steps):
    """Four plans go on to the second rung, and three to one above it."""
    run = within_cost(replace(prepared, full_steps=full_steps), NOTHING)
    limit = run.spec.search.max_cost
    schedule = schedule_of(replace(run, spec=with_setting(run.spec, "search.max_cost", None)))
    cost = [schedule.rung_cost(index) for index in range(len(schedule.rung_steps))]
    needed = 9 * cost[0] + 4 * cost[1] + 3 * sum(cost[2:]) + confirm_cost(run)
    assert limit == pytest.approx(max(4.0, needed), abs=0.1)
    assert decided(run)["search.max_cost"] == f"{limit:g}"
    assert run.spec.search.trials >= 9


DOCS = Path(__file__).parents[2] / "docs" / "searching.md"
ROW = re.compile(r"^\| ([\d,]+)(?: to (\d+))? \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)


@pytest.mark.parametrize("row", ROW.findall(DOCS.read_text(encoding="utf-8")))
def test_the_documentation_says_how_many_proposals_and_seeds_the_default_pays(prepared, row):
    lengths = [int(steps.replace(",", "")) for steps in row[:2] if steps]
    for n_rows, said in (((120, 300), row[2]), ((2_000, 10**6), row[3])):
        runs = [
            within_cost(sized(prepared, full_steps, each), NOTHING).spec
            for full_steps, each in product(lengths, product((16, 32), n_rows, (True, False)))
        ]
        numbers = {run.search.trials for run in runs}
        assert (min(numbers), max(numbers)) == span(said)
        low, high = span(row[4])
        assert all(low <= run.confirm.seeds <= high for run in runs)


def span(words):
    low, *high = re.split(" to | or ", words)
    return int(low), int((high or [low])[0])


def sized(prepared, full_steps, sizes):
    """The run with other batches and sizes of its splits, of which costs depend alone."""
    batch_size, n_rows, is_tested = sizes
    names = ("train", "search", "confirm", "test") if is_tested else ("train", "search", "confirm")
    splits = {name: SimpleNamespace(labels=range(n_rows)) for name in names}
    bench = SimpleNamespace(splits=splits, batch_size=batch_size)
    return replace(prepared, full_steps=full_steps, bench=bench)


def test_the_usual_cost_of_a_model_without_data_is_that_of_dear_evaluation():
    """What `estimate` tells from a config alone, here by hand for 200 steps of 16 examples.

    A twentieth of a run pays the evaluation of 320 examples; the first rung evaluates 192 of them.
    """
    first, second = 30 + 192 / 32, 75 - 30 + 320 / 32
    confirm = 2 * (2 * (100 + 320 / 32 + 320 / 32) + 0.35 * 100 + 320 / 32)
    assert usual_cost(200) == pytest.approx((9 * first + 4 * second + confirm) / 200, abs=0.1)
    assert usual_cost(10_000) == 4.0


@pytest.mark.parametrize("full_steps", [54, 80, 110, 150])
def test_a_third_seed_is_paid_by_default_only_beside_nine_proposals(prepared, full_steps):
    """Confirmations are cheap where few examples are evaluated; 8 R is the most by default."""
    few = with_setting(prepared.spec, "data.max_eval_examples", 8)
    run = within_cost(replace(prepared, spec=few, full_steps=full_steps), NOTHING)
    open_spec = with_setting(run.spec, "search.max_cost", None)
    schedule = schedule_of(replace(run, spec=open_spec))
    cost = [schedule.rung_cost(index) for index in range(len(schedule.rung_steps))]
    search = 9 * cost[0] + 4 * cost[1] + 3 * sum(cost[2:])
    is_paid = search + schedule.confirm_cost(n_seeds=3) <= 8.0
    assert run.spec.confirm.seeds == (3 if is_paid else 2)
    assert is_paid == (full_steps > 54)
    assert run.spec.search.trials >= 9 or not is_paid


@pytest.mark.parametrize(
    ("max_cost", "expected"),
    # Two plans cost 2 R a seed in full and 1 R at half length, and a little for the head and for evaluation.
    [(3.0, ("half", 2)), (4.0, ("half", 2)), (9.0, ("half", 4)), (14.0, ("full", 3)), (30.0, ("full", 5))],
)
def test_confirmation_is_as_long_and_has_as_many_seeds_as_its_share_pays(prepared, max_cost, expected):
    limited = with_setting(prepared.spec, "search.max_cost", max_cost)
    run = within_cost(replace(prepared, spec=limited, full_steps=1000), NOTHING)
    assert (run.spec.confirm.fidelity, run.spec.confirm.seeds) == expected
    assert run.spec.search.max_cost == max_cost


def test_what_the_user_gave_is_kept(prepared):
    spec = prepared.spec.model_copy(
        update={
            "search": SearchSpec(trials=40, max_cost=5.0),
            "confirm": ConfirmSpec(fidelity="full", seeds=3),
        }
    )
    given = frozenset({"search.trials", "search.max_cost", "confirm.fidelity", "confirm.seeds"})
    run = within_cost(replace(prepared, spec=spec, full_steps=1000), given)
    assert run.spec == spec
    assert run.decisions == prepared.decisions


def test_given_trials_are_not_limited_by_a_cost_that_was_not_given(prepared):
    spec = with_setting(prepared.spec, "search.trials", 40)
    run = within_cost(replace(prepared, spec=spec, full_steps=1000), frozenset({"search.trials"}))
    assert (run.spec.search.trials, run.spec.search.max_cost) == (40, None)
    assert run.spec.confirm.fidelity == "half"
    rule = "5 by default; the usual cost pays no more, --max-cost or --confirm-seeds does"
    assert rule_of(run, "confirm.seeds") == rule
    limited = replace(run, spec=with_setting(prepared.spec, "search.max_cost", 4.0), decisions=())
    assert rule_of(within_cost(limited, NOTHING), "confirm.seeds").endswith("55 % of --max-cost pay no more")


def test_a_full_confirmation_that_was_asked_for_raises_the_limit(prepared):
    spec = prepared.spec.model_copy(update={"confirm": ConfirmSpec(fidelity="full", seeds=5)})
    run = within_cost(replace(prepared, spec=spec, full_steps=1000), frozenset({"confirm.fidelity"}))
    assert (run.spec.confirm.fidelity, run.spec.confirm.seeds) == ("full", 5)
    assert run.spec.search.max_cost > confirm_cost(run) > 10


def test_settings_that_were_decided_once_are_not_decided_again(prepared):
    """A resumed run, and one from its run.yaml."""
    once = within_cost(replace(prepared, full_steps=1000, decisions=()), NOTHING)
    again = within_cost(replace(once, decisions=()), NOTHING)
    assert again.spec == once.spec
    assert again.decisions == ()


def test_large_splits_are_evaluated_in_part(prepared):
    full_steps = 10
    run = within_cost(replace(prepared, full_steps=full_steps), NOTHING)
    sizes = schedule_of(replace(prepared, full_steps=full_steps))
    largest = max(sizes.n_search, sizes.n_confirm, sizes.n_test)
    limit = max(128, int(0.05 * full_steps * 8 / 0.5))
    assert run.spec.data.max_eval_examples == (limit if largest > limit else None)


@pytest.mark.parametrize(("max_cost", "is_told"), [(1.0, True), (7.0, False)])
def test_a_cost_that_pays_no_verdict_is_told(prepared, caplog, max_cost, is_told):
    spec = with_setting(prepared.spec, "search.max_cost", max_cost)
    run = within_cost(replace(prepared, spec=spec, full_steps=1000), frozenset({"search.max_cost"}))
    warn_of_cost(run)
    assert ("--max-cost is 1 R, but a verdict needs about" in caplog.text) == is_told


def test_as_many_seeds_as_the_user_gave_decide_the_length(prepared):
    """Three full seeds of two plans would fit 14 R, five do not."""
    spec = with_setting(prepared.spec, "search.max_cost", 14.0)
    given = frozenset({"search.max_cost", "confirm.seeds"})
    run = within_cost(replace(prepared, spec=spec, full_steps=1000), given)
    assert (run.spec.confirm.fidelity, run.spec.confirm.seeds) == ("half", 5)
