"""What a user may change with `--resume`: the deadline, places, how it computes, and nothing else."""

from __future__ import annotations

import importlib
from operator import attrgetter

import pytest
from toys.results import toy_plan, toy_run
from toys.specs import run_spec

from autopeft.errors import SpecError
from autopeft.setup.resuming import resumed
from autopeft.setup.workers import check_executor
from autopeft.store import RunDir
from autopeft.store.state import RunState, file_digest, logged_measurements, record, write_state
from autopeft.types import Decision, with_setting

STORED = run_spec(trials=10, max_cost=3.0)


@pytest.fixture
def out(tmp_path):
    with RunDir.create(tmp_path / "run", resume=False) as run:
        run.write_spec(STORED)
    return tmp_path / "run"


PIECES = {"execution.micro_batch_tokens": "4096", "execution.checkpointing": "off"}


def decided(values, rule=""):
    return tuple(Decision(setting=name, value=value, rule=rule) for name, value in values.items())


@pytest.mark.parametrize(
    ("given", "pieces"),
    [
        ({}, (4096, "off")),
        ({"memory": 2**30}, (None, "auto")),
        ({"micro_batch_tokens": 512}, (512, "off")),
        ({"checkpointing": "on"}, (4096, "on")),
        ({"memory": 2**30, "micro_batch_tokens": 512}, (512, "auto")),
    ],
)
@pytest.mark.parametrize("is_derived", [False, True])
def test_pieces_of_a_step_may_change_and_follow_the_memory_if_the_run_chose_them(
    tmp_path, is_derived, given, pieces
):
    out, stored = tmp_path / "run", {"micro_batch_tokens": 4096, "checkpointing": "off"}
    with RunDir.create(out, resume=False) as run:
        run.write_spec(run_spec(**stored))
        write_state(run, RunState(start={}, decisions=decided(PIECES if is_derived else {})))
    names = {"memory": "execution.memory_bytes"} | {name.split(".")[1]: name for name in PIECES}
    spec = resumed(run_spec(out=out, **given), frozenset(names[name] for name in given)).execution
    expected = pieces if is_derived else tuple((stored | given)[name] for name in stored)
    assert (spec.micro_batch_tokens, spec.checkpointing) == expected
    assert spec.memory_bytes == given.get("memory")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("search.trials", 40),
        ("search.max_cost", 5.0),
        ("search.seeds", 3),
        ("search.effort", "quick"),
    ],
)
def test_what_is_searched_and_its_limits_cannot_change(out, name, value):
    with pytest.raises(SpecError, match=name):
        resumed(run_spec(out=out, **{name: value}), frozenset({name}))


@pytest.mark.parametrize(("name", "value"), [("execution.gpu_price", 2.5), ("search.max_time_seconds", 60.0)])
def test_the_price_of_the_machine_and_the_deadline_may_change(out, name, value):
    spec = resumed(with_setting(run_spec(out=out), name, value), frozenset({name}))
    assert spec == with_setting(with_setting(STORED, "output.out", str(out)), name, value)


def test_the_same_settings_may_be_given_again(out):
    again = with_setting(STORED, "output.out", str(out))
    assert resumed(again, frozenset({"search.trials", "search.max_cost"})) == again


@pytest.mark.parametrize("name", ["model.id", "data.source", "search.space", "search.baseline"])
def test_model_data_and_files_of_the_user_may_be_at_another_place(tmp_path, name):
    with RunDir.create(tmp_path / "run", resume=False) as run:
        run.write_spec(with_setting(run_spec(), name, "before"))
    spec = resumed(with_setting(run_spec(out=tmp_path / "run"), name, "after"), frozenset({name}))
    assert attrgetter(name)(spec) == "after"


@pytest.mark.parametrize(
    ("stored", "given", "spread"),
    [
        ({"workers": 2}, {"executor": "serial"}, ("serial", None, None)),
        ({"device": "cpu,cpu", "workers": 4}, {"executor": "serial"}, ("serial", None, "cpu")),
        ({"workers": 2}, {"executor": "process"}, ("process", 2, None)),
        ({"workers": 2}, {}, ("process", 2, None)),
        ({"workers": 2}, {"executor": "serial", "workers": 1}, ("serial", 1, None)),
    ],
)
def test_workers_of_another_executor_are_counted_again_where_the_user_gives_none(
    tmp_path, stored, given, spread
):
    with RunDir.create(tmp_path / "run", resume=False) as run:
        run.write_spec(run_spec(executor="process", **stored))
    names = frozenset(f"execution.{name}" for name in given)
    spec = resumed(run_spec(out=tmp_path / "run", **given), names)
    assert (spec.execution.executor, spec.execution.workers, spec.execution.device) == spread
    check_executor(spec)


def test_scores_by_a_metric_of_the_user_that_was_edited_are_measured_again(tmp_path, monkeypatch):
    name = f"own_{tmp_path.name}".replace("-", "_")
    monkeypatch.syspath_prepend(str(tmp_path))
    file = tmp_path / f"{name}.py"
    file.write_text("score = len")
    importlib.import_module(name)
    original = file_digest(f"{name}:score")
    plan = toy_plan({}, 1e-3, 0)
    short, tested = toy_run(plan, "search", 8, 0, 0.7, None), toy_run(plan, "test", 8, 0, 0.7, 0.5)
    with RunDir.create(tmp_path / "run", resume=False) as run:
        state = RunState(start={}, metric_file=original)
        write_state(run, state)
        for measurement in (short, tested):
            record(run, state, measurement)
        assert [*logged_measurements(run).values()] == [short, tested]
        file.write_text("score = sum")
        write_state(run, RunState(start={}, metric_file=file_digest(f"{name}:score")))
        assert [*logged_measurements(run).values()] == [short]
    assert file_digest("accuracy") is file_digest(None) is file_digest("sys:exit") is None
