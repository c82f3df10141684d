"""The contract of a tracker, by what its own client reads back; and a search that outlives any tracker."""

from __future__ import annotations

import csv
import importlib.util
import logging

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toys.memory import SMALL, toy_dataset
from toys.results import toy_result
from toys.specs import run_spec

import autopeft
from autopeft.cli.progress import Silent
from autopeft.errors import SpecError, UnknownNameError
from autopeft.extension import Tracker, discover
from autopeft.pipeline.tracking import Tracking, check_trackers, tracking
from autopeft.records import OutputSpec
from autopeft.trackers.parts import require

TRACKERS = discover("autopeft.trackers")
VALUES = {"stage": "rung_0", "arm": "lora/all", "plan_id": "0123456789", "seed": 1, "status": "COMPLETE"}
VALUES |= {"trainable_params": 400, "learning_rate": 1e-3, "train_steps": 30, "train_seconds": 0.5, "rung": 0}


def spec_with(*names):
    return run_spec().model_copy(update={"output": OutputSpec(report_to=names)})


def scalars(folder):
    """Tag -> (step, value) of each scalar, as TensorBoard reads the events of one folder."""
    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


@pytest.mark.parametrize("name", TRACKERS)
def test_tracker_logs_a_search_from_start_to_end(name, tmp_path, monkeypatch):
    assert isinstance(TRACKERS[name], Tracker)
    if importlib.util.find_spec(name) is None:
        with pytest.raises(SpecError, match=rf'pip install "autopeft\[{name}\]"'):
            TRACKERS[name].require()
        pytest.skip(f"{name} is not installed")
    monkeypatch.chdir(tmp_path)
    for variable, value in {
        "WANDB_MODE": "offline",
        "MLFLOW_TRACKING_URI": f"file:{tmp_path}/mlruns",
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "TRACKIO_DIR": str(tmp_path / "trackio"),
    }.items():
        monkeypatch.setenv(variable, value)
    TRACKERS[name].require()
    run = TRACKERS[name].open(tmp_path / "run", {"search.trials": 4, "model.id": "toy"})
    run.measured({**VALUES, "loss": 0.5, "metric": 0.75}, number=0)
    run.measured({**VALUES, "status": "DIVERGED"}, number=1)
    run.close({"verdict.label": "better", "best.metric_mean": 0.9})
    assert any(path.is_file() for path in tmp_path.rglob("*"))


def test_mlflow_has_a_nested_run_for_each_measurement(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/mlruns")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    run = TRACKERS["mlflow"].open(tmp_path / "run", {"search.trials": 4})
    run.measured({**VALUES, "loss": 0.5, "metric": 0.75}, number=0)
    run.close({"verdict.label": "better", "best.metric_mean": 0.9})
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("autopeft").experiment_id
    parent, child = sorted(client.search_runs([experiment]), key=lambda run: "arm" in run.data.params)
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert (child.data.params["arm"], child.data.metrics["loss"]) == ("lora/all", 0.5)
    assert parent.data.params["search.trials"] == "4"
    assert parent.data.metrics["best.metric_mean"] == 0.9
    assert (parent.data.tags["verdict.label"], parent.info.status) == ("better", "FINISHED")


@pytest.fixture(scope="module")
def run(make_base, tokenizer, tmp_path_factory):
    """The folder of a search that logs to TensorBoard."""
    out = tmp_path_factory.mktemp("tracked") / "run"
    module = make_base("bert").module
    data = {"model": module, "data": toy_dataset(), "tokenizer": tokenizer}
    autopeft.search(**data, out=out, report_to="tensorboard", **SMALL)
    return out, data


def test_tensorboard_reads_every_measurement_of_a_search_and_its_answer(run):
    out, _ = run
    with (out / "trials.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    logged = scalars(out / "tensorboard")
    for number, row in enumerate(rows):
        stage = f"rung_{row['rung']}" if row["rung"] else row["split"]
        assert (number, pytest.approx(float(row["loss"]))) in logged[f"{stage}/loss"]
        within = scalars(out / "tensorboard" / f"measurement-{number:04d}")
        assert within["loss"] == [(number, pytest.approx(float(row["loss"])))]
    result = autopeft.load_result(out)
    best = next(c for c in result.confirmations if c.plan == result.best)
    assert logged["outcome/best.metric_mean"] == [(0, pytest.approx(best.metric_mean))]


def measured_in(out):
    """The scalars of measurements; those of the outcome hold times, which differ from start to start."""
    logged = scalars(out / "tensorboard").items()
    return {tag: values for tag, values in logged if not tag.startswith("outcome/")}


def test_resumed_search_logs_each_measurement_once(run):
    out, data = run
    before = measured_in(out)
    assert before
    autopeft.search(**data, out=out, resume=True)
    assert measured_in(out) == before


def test_setting_is_kept_in_the_run_and_may_change_when_it_resumes(run):
    out, data = run
    assert yaml.safe_load((out / "run.yaml").read_text())["output"] == {"report_to": ["tensorboard"]}
    result = autopeft.search(**data, out=out, resume=True, report_to=[])
    assert result.spec.output.report_to == ()


class Broken:
    """A tracker that fails where it is told to."""

    name = "broken"

    def __init__(self, *failing, error=None):
        self.failing, self.calls = failing, []
        self.error = error or ConnectionError("the server is gone")

    def require(self):
        pass

    def open(self, folder, settings):
        self._call("open")
        return self

    def measured(self, values, *, number):
        self._call("measured")
        print("a client that prints")

    def close(self, outcome):
        self._call("close")

    def _call(self, name):
        self.calls.append(name)
        if name in self.failing:
            raise self.error


class Counting(Silent):
    n_measured = 0

    def measured(self, measurement, *, arm, is_baseline, seconds_left):
        self.n_measured += 1


@pytest.mark.parametrize(
    ("failing", "calls"),
    [
        ("open", ["open"]),
        ("measured", ["open", "measured"]),
        ("close", ["open", "measured", "measured", "close"]),
        ("", ["open", "measured", "measured", "close"]),
    ],
)
def test_failing_tracker_gives_one_warning_and_the_search_goes_on(failing, calls, tmp_path, caplog, capsys):
    result, display, broken = toy_result(), Counting(), Broken(failing)
    tracked = Tracking([broken], run_spec(), tmp_path, display, result.proxy.rung_steps)
    with caplog.at_level(logging.WARNING):
        for measurement in result.measurements[:2]:
            tracked.measured(measurement, arm="lora/all", is_baseline=False, seconds_left=None)
        tracked.finish(result)
        tracked.close()
    assert (broken.calls, display.n_measured) == (calls, 2)
    assert len(caplog.records) == bool(failing)
    assert "the server is gone); the search goes on without it" in caplog.text or not failing
    assert capsys.readouterr().out == ""  # stdout belongs to --json


@pytest.mark.parametrize(("opened", "kind"), [(None, "NoneType"), ({}, "dict")])
def test_tracker_that_opens_no_run_is_left_out_with_one_warning(opened, kind, tmp_path, caplog):
    measurement, broken = toy_result().measurements[0], Broken()
    broken.open = lambda folder, settings: opened
    tracked = Tracking([broken], run_spec(), tmp_path, Silent(), (1,))
    for _ in range(2):
        tracked.measured(measurement, arm="lora/all", is_baseline=False, seconds_left=None)
    tracked.close()
    assert [r.getMessage() for r in caplog.records] == [
        f"The tracker broken failed (TypeError: open gave {kind}, which has no measured and no close); "
        "the search goes on without it."
    ]


def test_tracker_that_exits_is_left_out_but_a_signal_ends_the_search(tmp_path, caplog):
    measurement, exits = toy_result().measurements[0], SystemExit(3)
    shown = {"arm": "lora/all", "is_baseline": False, "seconds_left": None}
    tracked = Tracking([Broken("measured", error=exits)], run_spec(), tmp_path, Silent(), (1,))
    tracked.measured(measurement, **shown)
    assert "The tracker broken failed (SystemExit: 3); the search goes on without it." in caplog.text

    def signalled():
        raise SystemExit(143)

    tracked = Tracking([Broken("measured", error=exits)], run_spec(), tmp_path, Silent(), (1,), signalled)
    with pytest.raises(SystemExit, match="143"):
        tracked.measured(measurement, **shown)


def test_search_that_breaks_off_closes_its_trackers_without_an_answer(tmp_path):
    out = tmp_path / "run"
    (measurement, *_) = toy_result().measurements
    with (
        pytest.raises(KeyboardInterrupt),
        tracking(spec_with("tensorboard"), out, Silent(), rung_steps=(1,)) as tracked,
    ):
        tracked.measured(measurement, arm="lora/all", is_baseline=False, seconds_left=None)
        raise KeyboardInterrupt
    assert [tag for tag in scalars(out / "tensorboard") if tag.startswith("outcome")] == []


def test_nothing_is_opened_before_the_first_measurement(tmp_path):
    with tracking(spec_with("tensorboard"), tmp_path, Silent(), rung_steps=(1,)):
        pass
    assert list(tmp_path.iterdir()) == []


def test_missing_client_is_one_sentence_with_the_command():
    with pytest.raises(SpecError, match=r'--report-to no_such_client needs .* pip install "autopeft\[no_s'):
        require("no_such_client")


def test_unknown_tracker_is_refused_with_the_known_ones():
    with pytest.raises(UnknownNameError, match=r"no tracker named 'tensorbord'.*Did you mean 'tensorboard'"):
        check_trackers(spec_with("tensorbord"))
