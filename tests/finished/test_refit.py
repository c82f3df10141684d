"""The refit: the returned adapter is the chosen plan, trained on all rows, and the judged one is kept."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import pytest

from autopeft import commands
from autopeft.finished.refit import refit_cost
from autopeft.report.progress import Lines
from autopeft.train import pausing, watched

ROOT = Path(__file__).parents[2]
WEIGHTS = "adapter_model.safetensors"


def search(spec, **more):
    return commands.run_search(spec, progress=Lines(lambda line: None), **more)


def answer_of(run):
    return json.loads((run / "result.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def usual(small_spec, tmp_path_factory):
    """A finished run with a refit: 80 train, 40 search and 40 confirm rows."""
    return search(small_spec(tmp_path_factory.mktemp("refit") / "run"))[1]


@pytest.mark.parametrize(("folder", "all_rows"), [("judged", False), ("weights", True)])
def test_both_adapters_are_those_of_train_to_the_bit(folder, all_rows, usual, tmp_path):
    commands.train_plan(usual, out=tmp_path / "again", all_rows=all_rows)
    ours, theirs = usual / "best" / folder, tmp_path / "again"
    assert (theirs / WEIGHTS).read_bytes() == (ours / WEIGHTS).read_bytes()
    notes = [json.loads((each / "training.json").read_text()) for each in (ours, theirs)]
    measured = dict.fromkeys(("train_seconds", "eval_seconds", "peak_bytes"))
    assert notes[0] | measured == notes[1] | measured


def test_refit_sees_all_rows_for_as_many_epochs(usual):
    refit = answer_of(usual)["refit"]
    assert (refit["train_rows"], refit["train_steps"]) == (160, 11)  # 8 steps on 120 rows before


def test_result_has_the_score_and_the_cost_of_the_refit(usual):
    answer = answer_of(usual)
    jsonschema.validate(answer, json.loads((ROOT / "docs" / "result.schema.json").read_text()))
    training = json.loads((usual / "best/weights/training.json").read_text())
    assert training["metric"] == answer["refit"]["test"]["metric_mean"]
    stages = ("sensitivity", "search", "full", "test", "refit")
    assert answer["cost"]["total_seconds"] == pytest.approx(
        sum(answer["cost"][f"{stage}_seconds"] for stage in stages)
    )
    judged = json.loads((usual / "best/judged/training.json").read_text())
    assert judged["metric"] == answer["best"]["metric_mean"]


def test_a_finished_refit_stays_however_long_loading_takes(small_spec, tmp_path, monkeypatch):
    search(small_spec(tmp_path / "run", max_time="1h"))
    seconds = itertools.chain([0.0], itertools.repeat(2 * 3600.0))
    monkeypatch.setattr("autopeft.commands.search.time", SimpleNamespace(monotonic=seconds.__next__))
    result, run = search(small_spec(tmp_path / "run", max_time="1h"), resume=True)
    assert result.refit is not None and (run / "best/judged").is_dir()


def test_verdict_is_that_of_a_search_without_a_refit(usual, small_spec, tmp_path):
    result, run = search(small_spec(tmp_path / "off", refit="off"))
    assert result.refit is None and not (run / "best/judged").exists()
    ours, theirs = answer_of(usual), answer_of(run)
    assert ours["verdict"] == theirs["verdict"] and ours["test"] == theirs["test"]
    judged = (usual / "best/judged" / WEIGHTS).read_bytes()
    assert (run / "best/weights" / WEIGHTS).read_bytes() == judged


class KilledError(BaseException):
    """Stops a run as a signal does."""


def test_refit_that_is_stopped_is_resumed_to_the_same_bits(usual, small_spec, tmp_path, monkeypatch):
    monkeypatch.setattr(pausing, "_SECONDS", 0.0)  # with the next line, the state is kept after each step
    monkeypatch.setattr(pausing, "_SHARE", math.inf)
    steps = []

    def stop_in_the_refit(step, n_steps, loss):  # the search itself has a watcher of its own
        if not (tmp_path / "run/result.json").exists():
            return  # a step that was only timed
        steps.append(step)
        if len(steps) == 9:
            raise KilledError

    with watched(stop_in_the_refit):
        with pytest.raises(KilledError):
            search(small_spec(tmp_path / "run"))
        assert not (tmp_path / "run/best/judged").exists()  # the judged adapter is the answer so far
        _, run = search(small_spec(tmp_path / "run"), resume=True)
    assert steps == [*range(1, 10), 9, 10, 11]
    assert (run / "best/weights" / WEIGHTS).read_bytes() == (usual / "best/weights" / WEIGHTS).read_bytes()


def test_limits_that_leave_no_room_keep_the_judged_adapter(small_spec, tmp_path, caplog):
    result, run = search(small_spec(tmp_path / "run", max_cost=0.1))
    assert result.refit is None and "on all rows" in caplog.text
    assert (run / "best/weights" / WEIGHTS).is_file()


@pytest.mark.parametrize(
    ("wanted", "n_train", "n_held_out", "cost"),
    [("auto", 96, 4, 0.0), ("auto", 94, 6, 100 / 94), ("on", 96, 4, 100 / 96), ("off", 50, 50, 0.0)],
)
def test_refit_is_made_where_many_rows_were_held_out(wanted, n_train, n_held_out, cost):
    def split(n_rows):
        return SimpleNamespace(labels=range(n_rows))

    data = SimpleNamespace(joined=lambda *_: split(n_train), confirm=split(n_held_out))
    settings = SimpleNamespace(search=SimpleNamespace(refit=wanted))
    assert refit_cost(SimpleNamespace(data=data, spec=settings)) == pytest.approx(cost)
