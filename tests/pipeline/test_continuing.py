"""What a resumed run keeps: its rungs, the runs that fit them, its cost; and what a larger cost adds."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
from toys.specs import run_spec

from autopeft import pipeline
from autopeft.cli.progress import Silent
from autopeft.pipeline.allowance import within_cost
from autopeft.pipeline.continuing import as_it_was
from autopeft.pipeline.keeping import keep_decisions, keep_rungs, keep_scores, kept_rungs
from autopeft.pipeline.measured import logged_measurements, record, unused_measurements
from autopeft.pipeline.prepare import prepare
from autopeft.pipeline.problem import schedule_of
from autopeft.records import Measurement, Plan, Status, with_setting
from autopeft.store import RunDir

PLAN = Plan(adapters=(), learning_rate=1e-3, trainable_params=0)


@pytest.fixture(scope="module")
def prepared(model_dir, data_dir):
    """A run of 400 steps in full with 4 trials."""
    spec = run_spec(model_dir, data_dir, budget="20%", batch_size=8, trials=4, confirm_seeds=2)
    spec = with_setting(spec, "confirm.fidelity", "half")
    return replace(prepare(spec), full_steps=400)


def settled(prepared, **search):
    spec = prepared.spec
    for name, value in search.items():
        spec = with_setting(spec, f"search.{name}", value)
    return replace(prepared, spec=spec)


@pytest.fixture
def run(tmp_path):
    with RunDir.create(tmp_path / "run", resume=False) as run:
        yield run


# Rungs.


@pytest.mark.parametrize(("cost", "is_short"), [(5.0, True), (8.0, True), (20.0, False)])
def test_more_trials_leave_the_rungs_of_a_run_as_they_are(prepared, cost, is_short):
    before = schedule_of(settled(prepared, max_cost=cost)).rungs
    fresh = schedule_of(settled(prepared, max_cost=cost, trials=24))
    after = schedule_of(replace(settled(prepared, max_cost=cost, trials=24), rungs=before))
    assert (fresh.rung_steps[-1] < before.rung_steps[-1]) == is_short  # as a new run would have them
    assert after.rung_steps == before.rung_steps
    assert all(now >= then for now, then in zip(after.n_best, before.n_best, strict=True))


@pytest.mark.parametrize("cost", [None, 3.6, 5.0, 8.0, 20.0])
def test_a_run_that_was_only_stopped_has_the_same_schedule(prepared, cost):
    before = schedule_of(settled(prepared, max_cost=cost))
    assert schedule_of(replace(settled(prepared, max_cost=cost), rungs=before.rungs)) == before


def test_rungs_become_longer_where_a_larger_cost_pays_those_that_they_replace(prepared):
    before = schedule_of(settled(prepared, max_cost=3.6)).rungs
    lengths = [
        schedule_of(replace(settled(prepared, max_cost=cost), rungs=before)).rung_steps[-1]
        for cost in (3.6, 4.0, 6.0, 12.0, 40.0, None)
    ]
    assert lengths[:2] == [before.rung_steps[-1]] * 2  # 0.4 R pay no rung anew
    assert lengths[:-1] == sorted(lengths[:-1]) and lengths[-2] == round(0.7 * 400)
    assert lengths[-1] == before.rung_steps[-1]  # without a limit nothing has to be used up


def test_paused_runs_are_dropped_where_the_rungs_changed(prepared, run):
    rungs = schedule_of(prepared).rungs
    paused = run.paused(PLAN, 0)
    keep_rungs(run, rungs, before=None)
    paused.mkdir(parents=True)
    keep_rungs(run, kept_rungs(run), before=rungs)
    assert paused.is_dir() and kept_rungs(run) == rungs
    keep_rungs(run, replace(rungs, rung_steps=(30, 90)), before=rungs)
    assert not paused.exists() and kept_rungs(run).rung_steps == (30, 90)


# Measurements.


def measured(fidelity):
    return Measurement(plan=PLAN, fidelity=fidelity, status=Status.COMPLETE, metric=0.5, loss=1.0)


def test_runs_with_other_cycles_of_the_rate_are_not_compared_with_new_ones(prepared, run):
    """A full run ends the cycle of each rung; a rung those of the rungs before it."""
    short = replace(schedule_of(prepared), rung_steps=(30, 75))
    longer = replace(short, rung_steps=(30, 75, 200))
    other = replace(short, rung_steps=(30, 200))
    first, last, full = short.rung(0, seed=0), short.rung(1, seed=0), short.full_rung(seed=0)
    for fidelity in (first, last, full):
        record(run, measured(fidelity), short)
    usable = {}
    for schedule in (short, longer, other):
        known, spent = logged_measurements(run, schedule)
        usable[schedule] = {fidelity for _, fidelity in known}
        assert {m.fidelity for m in spent} == {first, last, full} - usable[schedule]
    assert list(usable.values()) == [{first, last, full}, {first, last}, {first}]
    fewer = replace(short, n_search=short.n_search - 1)  # examples, on which losses differ
    assert {m.fidelity for m in logged_measurements(run, fewer)[1]} >= {last}
    record(run, replace(measured(full), loss=0.5), longer)
    known, spent = logged_measurements(run, longer)
    assert known[PLAN, full].loss == 0.5
    assert [m.loss for m in spent] == [1.0]


# A larger cost.


@pytest.mark.parametrize("now", [6.0, 15.0, None])
def test_a_larger_cost_pays_more_trials_and_seeds_where_the_run_decided_them(prepared, run, now):
    first = within_cost(
        replace(settled(prepared, max_cost=4.5, trials=60), decisions=()), frozenset({"confirm.seeds"})
    )
    run.write_spec(first.spec)
    keep_decisions(run, first.spec, first.decisions)
    grown = settled(replace(first, decisions=()), max_cost=now)
    after = as_it_was(run, grown, frozenset({"search.max_cost"}))
    assert after.spec.search.trials > first.spec.search.trials
    assert after.spec.confirm == first.spec.confirm  # whose seeds were given
    kept = keep_decisions(run, after.spec, after.decisions)
    values = {decision.setting: decision.value for decision in kept}
    assert values["search.trials"] == str(after.spec.search.trials)
    assert as_it_was(run, grown, frozenset({"search.max_cost", "search.trials"})).spec == grown.spec
    assert as_it_was(run, first, frozenset()).spec == first.spec


def test_a_larger_cost_pays_seeds_that_a_small_one_did_not(prepared, run, caplog):
    spec = with_setting(with_setting(prepared.spec, "confirm.fidelity", "auto"), "confirm.seeds", 5)
    first = within_cost(
        settled(replace(prepared, spec=spec, decisions=()), max_cost=4.5), frozenset({"search.trials"})
    )
    assert (first.spec.confirm.fidelity, first.spec.confirm.seeds) == ("half", 2)
    run.write_spec(first.spec)
    keep_decisions(run, first.spec, first.decisions)
    with caplog.at_level("INFO"):
        after = as_it_was(run, settled(first, max_cost=9.0), frozenset({"search.max_cost"})).spec
    assert (after.confirm.fidelity, after.confirm.seeds) == ("half", 4)  # as a new run of 9 R has them
    assert "It stays as the run decided then: --confirm half" in caplog.text


# Seconds.


def test_the_pass_took_what_it_took_when_the_run_began(run):
    scores, seconds = keep_scores(run, lambda: ())
    (run.state / "scoring_seconds.json").write_text("60.0")
    assert keep_scores(run, lambda: pytest.fail("it is on the disk")) == (scores, 60.0)
    assert 0 <= seconds < 60


def test_measurements_that_a_resumed_run_does_not_use_are_told_apart(prepared, run):
    schedule = schedule_of(prepared)
    rung, confirmation = schedule.rung(0, seed=0), schedule.fidelity("test", seed=1)
    other = replace(PLAN, learning_rate=2e-3)
    first, again, dropped, test = (
        replace(measured(rung), loss=4.0),
        measured(rung),
        replace(measured(rung), plan=other),
        measured(confirmation),
    )
    for measurement in (first, again, dropped, test):
        record(run, measurement, schedule)
    outcome = SimpleNamespace(measurements=(again, test))
    assert unused_measurements(run, outcome) == [dropped, first]
    assert unused_measurements(run, SimpleNamespace(measurements=(again, dropped, test))) == [first]


@pytest.mark.nightly
def test_an_extended_run_counts_all_that_was_measured(model_dir, data_dir, tmp_path):
    settings = {"budget": "5%", "max_steps": 8, "batch_size": 8, "max_eval_examples": 20, "confirm": "none"}
    spec = run_spec(model_dir, data_dir, out=tmp_path / "run", trials=4, **settings)
    given = frozenset({"search.trials", "confirm.fidelity"})
    first, out = pipeline.search(spec, given=given, progress=Silent())
    more = run_spec(out=out, trials=9)
    second, _ = pipeline.search(more, given=frozenset({"search.trials"}), resume=True, progress=Silent())
    log = [entry.measurement for entry in RunDir.open(out).measurements.every()]
    assert len(log) > len(first.measurements)
    seconds = sum(m.total_seconds for m in log)
    assert second.cost.sensitivity_seconds == first.cost.sensitivity_seconds
    assert second.cost.total_seconds == pytest.approx(seconds + first.cost.sensitivity_seconds)
    assert second.cost.total_seconds > first.cost.total_seconds
