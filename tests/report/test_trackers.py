"""Trackers of `accelerate`: a run for each plan, by what TensorBoard reads back; none can harm a search."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from dataclasses import replace

import pytest
from accelerate import tracking as accelerated
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toys.memory import SMALL, toy_dataset
from toys.results import toy_result
from toys.specs import run_spec

import autopeft
from autopeft.errors import SpecError, UnknownNameError
from autopeft.report.trackers import check_trackers, log_plans, logged_curve
from autopeft.store import RunDir
from autopeft.types import OutputSpec


def spec_with(*names):
    return run_spec().model_copy(update={"output": OutputSpec(report_to=names)})


def result_with(*names):
    return replace(toy_result(), spec=spec_with(*names))


@pytest.fixture
def run_dir(tmp_path):
    with RunDir.create(tmp_path / "run", resume=False) as run:
        run.state.mkdir(exist_ok=True)
        yield run


@pytest.fixture(scope="module")
def finished(make_base, tokenizer, tmp_path_factory):
    """The folder of a search that logged to TensorBoard."""
    out = tmp_path_factory.mktemp("tracked") / "run"
    data = {"model": make_base("bert").module, "data": toy_dataset(), "tokenizer": tokenizer}
    autopeft.search(**data, out=out, report_to="tensorboard", **SMALL)
    return out


def curves(out):
    """Plan id -> tag -> [(step, value)], as TensorBoard reads the folders of a run."""
    found = {}
    for folder in (out / "tensorboard").iterdir():
        events = EventAccumulator(str(folder))
        events.Reload()
        tags = events.Tags()["scalars"]
        found[folder.name.rpartition("-")[2]] = {
            t: [(e.step, e.value) for e in events.Scalars(t)] for t in tags
        }
    return found


def test_each_plan_is_one_run_with_its_losses_by_step(finished):
    losses = defaultdict(lambda: defaultdict(list))
    with (finished / "trials.csv").open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            losses[row["plan_id"]][f"{row['split']}/loss", int(row["train_steps"])].append(float(row["loss"]))
    logged = curves(finished)
    assert logged.keys() == losses.keys()
    for plan, points in losses.items():
        found = {
            (tag, step): v for tag, values in logged[plan].items() for step, v in values if "loss" in tag
        }
        training = {(tag, step): found.pop((tag, step)) for tag, step in [*found] if "training_" in tag}
        assert found == {point: pytest.approx(sum(each) / len(each)) for point, each in points.items()}
        for file in (finished / "curves").glob(f"{plan}-*"):
            split = file.name.removeprefix(f"{plan}-").split("-")[0]
            for line in file.read_text(encoding="utf-8").splitlines():
                point = json.loads(line)
                logged_loss = training.pop((f"{split}/training_loss", point["step"]))
                assert logged_loss == pytest.approx(point["loss"])
        assert not training
    assert max(map(len, losses.values())) > 1, "short runs and full ones"


class Fake:
    """A tracker that fails, from the second plan on, in the method `failing`."""

    failing, error = "", ConnectionError("the server is gone")

    def __init__(self, project):
        self.project = project

    def start(self):
        Fake.calls.append("start")
        self._fail("start")

    def store_init_configuration(self, values):
        assert all(isinstance(value, bool | int | float | str) for value in values.values())
        print("a client that prints")

    def log(self, values, step):
        self._fail("log")

    def finish(self):
        Fake.calls.append("finish")
        self._fail("finish")

    def _fail(self, name):
        if name == self.failing and Fake.calls.count("start") == 2:
            raise self.error


@pytest.fixture
def fake(monkeypatch):
    """The class of a tracker that `accelerate` knows for the time of a test."""
    monkeypatch.setattr(Fake, "calls", [], raising=False)
    monkeypatch.setitem(accelerated.LOGGER_TYPE_TO_CLASS, "fake", Fake)
    return Fake


@pytest.mark.parametrize("failing", ["start", "log", "finish"])
def test_a_tracker_that_fails_is_one_warning_and_gets_the_rest_later(
    failing, fake, run_dir, monkeypatch, caplog, capsys
):
    result = result_with("fake")
    n_plans = len({measurement.plan for measurement in result.measurements})
    monkeypatch.setattr(fake, "failing", failing)
    log_plans(run_dir, result)
    (message,) = caplog.messages
    assert "fake" in message and "ConnectionError: the server is gone" in message
    monkeypatch.setattr(fake, "failing", "")
    fake.calls.clear()
    log_plans(run_dir, result)
    assert fake.calls == ["start", "finish"] * (n_plans - 1)
    log_plans(run_dir, result)
    assert len(fake.calls) == 2 * (n_plans - 1)
    assert capsys.readouterr().out == ""  # stdout belongs to --json


def test_a_missing_client_and_an_unknown_tracker_are_refused(monkeypatch):
    with pytest.raises(UnknownNameError, match="'tensorboard'"):
        check_trackers(spec_with("tensorbord"))
    monkeypatch.setattr(accelerated, "_available_trackers", [])
    with pytest.raises(SpecError, match="pip install wandb"):
        check_trackers(spec_with("wandb"))


def points_written(path, *, n_points):
    lines = [{"step": 10 * n, "loss": 1 / n, "gradient_norm": None} for n in range(1, n_points + 1)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_training_is_logged_while_it_runs_and_has_the_name_of_its_folder(tmp_path):
    curve = tmp_path / "curve.jsonl"
    with logged_curve(spec_with("tensorboard"), curve, tmp_path / "adapter") as log_new_points:
        for n_points in (2, 2, 3):
            points_written(curve, n_points=n_points)
            log_new_points()
        points_written(curve, n_points=4)
    events = EventAccumulator(str(tmp_path / "tensorboard" / "adapter"))
    events.Reload()
    seen = [(each.step, each.value) for each in events.Scalars("training_loss")]
    assert seen == [(10 * n, pytest.approx(1 / n)) for n in range(1, 5)]


@pytest.mark.parametrize("failing", ["start", "log", "finish"])
def test_a_tracker_that_fails_in_a_training_is_one_warning(failing, fake, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(fake, "failing", failing)
    fake.calls.append("start")  # it fails from its second start on
    points_written(tmp_path / "curve.jsonl", n_points=2)
    with logged_curve(spec_with("fake"), tmp_path / "curve.jsonl", tmp_path / "adapter") as log_new_points:
        log_new_points()
    (message,) = caplog.messages
    assert "ConnectionError: the server is gone" in message
