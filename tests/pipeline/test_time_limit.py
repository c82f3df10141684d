"""`--max-time` without a length: the full run, and where need be the rest, follow from a timed probe."""

from __future__ import annotations

import time
from dataclasses import replace
from operator import attrgetter
from pathlib import Path

import pytest

from autopeft.cli.progress import Silent
from autopeft.errors import SpecError, StoppedError
from autopeft.pipeline import preview, search
from autopeft.pipeline.allowance import within_cost
from autopeft.pipeline.forecast import TimeLimit, expected_seconds, fitted, within_time
from autopeft.pipeline.prepare import prepare
from autopeft.pipeline.problem import fit_to_budget, requested_space, schedule_of
from autopeft.records import (
    BudgetSpec,
    ConfirmSpec,
    DataSpec,
    ModelSpec,
    OutputSpec,
    RunSpec,
    SearchSpec,
    TaskSpec,
    with_setting,
)
from autopeft.space import baseline_policies, plan_of
from autopeft.store import RunDir
from autopeft.train import Pace, pace_of

PACE = Pace(step_seconds=0.5, example_seconds=0.03, run_seconds=0.25)
NOTHING = frozenset[str]()


@pytest.fixture(scope="module")
def spec(model_dir, data_dir):
    return RunSpec(
        model=ModelSpec(id=str(model_dir)),
        data=DataSpec(source=str(data_dir)),
        budget=BudgetSpec(requested="20%"),
        task=TaskSpec(batch_size=8),
        search=SearchSpec(methods=("lora",), max_time_seconds=3600.0),
    )


@pytest.fixture(scope="module")
def prepared(spec):
    """A run of 200 steps in full."""
    return replace(prepare(spec), full_steps=200)


def test_expected_time_is_the_sum_over_all_runs(prepared):
    """Without a limit of cost, since the trials are given."""
    given = frozenset({"search.trials", "confirm.fidelity", "confirm.seeds"})
    full = with_setting(prepared.spec, "confirm.fidelity", "full")
    run = replace(prepared, spec=full)
    schedule = schedule_of(run)
    first, last = schedule.rung_steps
    runs = [(first, schedule.n_search)] * 24
    runs += [(last - first, schedule.n_search)] * schedule.n_promoted(1)
    runs += [(last, schedule.n_search)] * 2  # retuned: trained anew
    runs += [(200, schedule.n_confirm), (0, schedule.n_test)] * 10 + [(0.35 * 200, schedule.n_confirm)] * 5
    seconds = sum(0.5 * steps + 0.03 * examples + 0.25 for steps, examples in runs)
    assert expected_seconds(run, PACE, given=given) == pytest.approx(seconds)


def test_full_run_is_the_longest_that_fits(prepared):
    seconds = 0.7 * expected_seconds(prepared, PACE, given=NOTHING)
    shortened = fitted(prepared, PACE, seconds=seconds, given=NOTHING)
    longer = replace(shortened, full_steps=shortened.full_steps + 1)
    assert expected_seconds(shortened, PACE, given=NOTHING) <= seconds
    assert seconds < expected_seconds(longer, PACE, given=NOTHING)
    assert shortened.spec.task.max_steps == shortened.full_steps
    assert shortened.spec.search == prepared.spec.search
    (decision,) = (d for d in shortened.decisions if d.setting == "task.max_steps")
    assert decision.value == str(shortened.full_steps)
    assert "so that the answer fits --max-time" in decision.rule
    assert "task.epochs" not in [d.setting for d in shortened.decisions]


@pytest.mark.parametrize("given", [(), ("search.trials",), ("confirm.seeds", "confirm.fidelity")])
def test_what_the_user_set_is_never_shortened(prepared, given):
    chosen = RunSpec(
        search=SearchSpec(methods=("lora",), trials=17), confirm=ConfirmSpec(fidelity="full", seeds=4)
    )
    spec = prepared.spec
    for name in given:
        spec = with_setting(spec, name, attrgetter(name)(chosen))
    run = within_cost(
        fitted(replace(prepared, spec=spec), PACE, seconds=1.0, given=frozenset(given)), frozenset(given)
    )
    assert run.full_steps == 20
    assert all(attrgetter(name)(run.spec) == attrgetter(name)(chosen) for name in given)


def test_language_model_is_evaluated_on_fewer_examples_first(prepared):
    few = replace(prepared.task.defaults, eval_examples=10)
    writing = replace(prepared, task=replace(prepared.task, defaults=few))
    run = fitted(writing, PACE, seconds=0.1 * expected_seconds(writing, PACE, given=NOTHING), given=NOTHING)
    assert run.spec.data.max_eval_examples in (10, 20)
    schedule = schedule_of(run)
    assert max(schedule.n_search, schedule.n_confirm, schedule.n_test) == run.spec.data.max_eval_examples
    assert "data.max_eval_examples" in [decision.setting for decision in run.decisions]
    kept = fitted(writing, PACE, seconds=1.0, given=frozenset({"data.max_eval_examples"}))
    assert kept.spec.data.max_eval_examples is None


@pytest.mark.parametrize("task", [{"epochs": 1.0}, {"max_steps": 5}])
def test_length_that_the_user_set_is_kept(spec, task):
    limited = spec.model_copy(update={"task": TaskSpec(**task), "search": SearchSpec(max_time_seconds=1.0)})
    assert not TimeLimit(spec=limited, given=NOTHING, started=0.0).is_open


def test_plenty_of_time_changes_nothing(prepared, spec):
    _, context = fit_to_budget(prepared, requested_space(spec))
    limit = TimeLimit(spec=spec, given=NOTHING, started=time.monotonic())
    short = replace(prepared, full_steps=30)
    assert within_time(short, limit, context) == within_cost(short, NOTHING)


def test_too_little_time_is_said_and_the_cheapest_run_is_taken(prepared, spec, caplog):
    _, context = fit_to_budget(prepared, requested_space(spec))
    late = TimeLimit(spec=spec, given=NOTHING, started=time.monotonic() - 3599.0)
    run = within_time(prepared, late, context)
    assert (run.full_steps, run.spec.search.trials) == (20, 6)
    assert "--max-time is short" in caplog.text


def test_pace_is_measured_without_a_trace(prepared, spec):
    _, context = fit_to_budget(prepared, requested_space(spec))
    before = prepared.base.sha256()
    (policy, *_) = baseline_policies(context, learning_rate=1e-3).values()
    pace = pace_of(prepared.bench, plan_of(policy, context))
    assert min(pace.step_seconds, pace.example_seconds) > 0
    assert pace.run_seconds >= 0
    assert prepared.base.sha256() == before


@pytest.fixture
def short(spec, tmp_path):
    """Without a number of trials or a length; any limit of seconds is too short for its epochs."""
    chosen = {"task": TaskSpec(batch_size=2), "output": OutputSpec(out=str(tmp_path / "run"))}
    return with_setting(spec.model_copy(update=chosen), "search.max_time_seconds", 0.02)


def resumed(spec, max_time):
    again = RunSpec(search=SearchSpec(max_time_seconds=max_time), output=spec.output)
    given = frozenset({"search.max_time_seconds"})
    return search(again, given=given, resume=True, progress=Silent())[0]


def test_shortened_run_keeps_its_length_once_it_has_measured(short, monkeypatch):
    assert "task.max_steps" in [d.setting for d in preview(short, given=NOTHING).decisions]
    out = Path(short.output.out)
    monkeypatch.setattr(TimeLimit, "clock", lambda limit: 0.0)

    def interrupt():
        if (out / "run.yaml").is_file() and RunDir.open(out).is_begun:
            stopped()

    with pytest.raises(StoppedError):
        search(short, given=NOTHING, progress=Silent(), interrupt=interrupt)
    monkeypatch.undo()
    assert RunDir.open(short.output.out).read_spec().task.max_steps == 20
    assert resumed(short, 400.0).setting.full_run_steps == 20


def stopped(*_, **__):
    raise StoppedError("The time is up.")


def test_a_limit_that_is_over_before_the_first_step_leaves_no_folder(short, monkeypatch):
    monkeypatch.setattr(TimeLimit, "clock", lambda limit: 7.0)
    with pytest.raises(SpecError, match=r"--max-time is 0.02 s, and model and data took 7 s to load; raise"):
        search(short, given=NOTHING, progress=Silent())
    assert not Path(short.output.out).exists()
