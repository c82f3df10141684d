"""A run directory: who may use it, what survives a crash, and what is left behind."""

from __future__ import annotations

import logging
import math
import os
import sqlite3
import subprocess
import sys
from dataclasses import replace

import pytest
from toys.results import toy_result

from autopeft.errors import RunDirError
from autopeft.store import RunDir, resolve_settings
from autopeft.store.study_file import study_file
from autopeft.types import Fidelity, Measurement, Plan, RunSpec, Status

PLAN = Plan(adapters=(), learning_rate=0.001, trainable_params=0)


def measured(seed: int, **changes) -> Measurement:
    fidelity = Fidelity(split="search", train_steps=30, train_examples=960, eval_examples=2, seed=seed)
    fields = {"plan": PLAN, "fidelity": fidelity, "status": Status.COMPLETE, "loss": 0.1 + seed}
    return Measurement(**{**fields, "example_scores": (0.0, 1.0), **changes})


def seeds_in(run: RunDir) -> list[int]:
    return [measurement.fidelity.seed for measurement in run.measurements.load()]


@pytest.fixture
def run(tmp_path):
    with RunDir.create(tmp_path / "reports" / "run", resume=False) as opened:
        opened.write_spec(RunSpec())
        yield opened


def test_a_folder_that_holds_files_is_refused_without_resume(tmp_path):
    (tmp_path / "mine.txt").touch()
    with pytest.raises(RunDirError, match="--out"):
        RunDir.create(tmp_path, resume=False)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_folder_that_is_not_a_run_is_not_resumed(tmp_path):
    (tmp_path / "mine.txt").touch()
    with pytest.raises(RunDirError, match=r"run\.yaml"):
        RunDir.create(tmp_path, resume=True)
    with pytest.raises(RunDirError, match=r"run\.yaml"):
        RunDir.open(tmp_path / "none")


def test_a_run_held_by_another_process_is_in_use(tmp_path):
    path = tmp_path / "run"
    code = (
        "import sys; from autopeft.store import RunDir; from autopeft.types import RunSpec\n"
        "run = RunDir.create(sys.argv[1], resume=False); run.write_spec(RunSpec())\n"
        "print('held', flush=True); input()"
    )
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunDirError, match="in use"):
            RunDir.create(path, resume=True)
        holder.kill()  # a killed process leaves no lock behind
        holder.wait()
        RunDir.create(path, resume=True).close()


def test_settings_repeat_the_run_elsewhere(run):
    spec = resolve_settings(flags={"budget.requested": "113000", "output.out": "x"})
    run.write_spec(spec)
    text = (run.path / "run.yaml").read_text()
    assert "autopeft search --config run.yaml" in text and "output" not in text.split("\n", 2)[2]
    repeated = resolve_settings(config=run.path / "run.yaml", flags={"output.out": "x"})
    assert repeated == spec
    assert run.read_spec().budget.requested == "113000"


def test_a_folder_without_a_run_yet_is_removed(tmp_path):
    run = RunDir.create(tmp_path / "a" / "b", resume=False)
    run.discard()
    assert not run.path.exists()


def test_a_run_or_a_file_of_somebody_else_is_not_removed(run, tmp_path):
    run.discard()
    assert (run.path / "run.yaml").exists()
    other = RunDir.create(tmp_path / "other", resume=False)
    (other.path / "notes.txt").touch()
    other.discard()
    assert [path.name for path in other.path.iterdir()] == ["notes.txt"]


def test_measurements_come_back_by_plan_and_fidelity(run):
    good = measured(1)
    diverged = measured(2, status=Status.DIVERGED, loss=math.inf, error="diverged")
    for measurement in (good, diverged):
        run.measurements.append(measurement)
    assert RunDir.open(run.path).measurements.load() == run.measurements.load() == (good, diverged)


@pytest.mark.parametrize("cut", [2, 200])
def test_a_torn_last_line_costs_that_line_only(run, caplog, cut):
    for seed in (1, 2):
        run.measurements.append(measured(seed))
    log = run.state / "measurements.jsonl"
    os.truncate(log, log.stat().st_size - cut)
    run.close()
    with RunDir.create(run.path, resume=True) as again, caplog.at_level(logging.WARNING):
        assert seeds_in(again) == [1]
        assert "line 2 is damaged" in caplog.text
        again.measurements.append(measured(3))
        assert seeds_in(again) == [1, 3]


def test_a_new_study_replaces_the_old_one_and_is_one_file(run):
    import optuna

    (run.path / "study.sqlite").write_text("not a database" * 100)
    (run.path / "study.sqlite-wal").write_text("of an earlier version")
    with study_file(run.path / "study.sqlite") as storage:
        study = optuna.create_study(storage=storage, study_name="s")
        study.tell(study.ask(), 0.5)
    assert [path.name for path in run.path.glob("study*")] == ["study.sqlite"]
    url = f"sqlite:///{run.path}/study.sqlite"
    assert optuna.load_study(storage=url, study_name="s").best_value == 0.5


def test_a_full_disk_under_a_new_study_is_reported(run, monkeypatch):
    def fail(*_, **__):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr("autopeft.store.study_file._connect", fail)
    full = pytest.raises(RunDirError, match="disk is full")
    with full, study_file(run.path / "study.sqlite"):
        pass


def test_a_result_comes_back_without_scores_of_examples(run):
    saved = replace(toy_result(), measurements=(measured(1, example_scores=()),))
    run.save_result(replace(saved, measurements=(measured(1),)))
    assert RunDir.open(run.path).load_result() == saved


def test_a_result_that_is_damaged_is_refused(run):
    run.state.mkdir()
    (run.state / "search_result.json").write_text("{")
    with pytest.raises(RunDirError, match=r"search_result\.json cannot be read"):
        run.load_result()


@pytest.mark.parametrize("damage", [b"\x00", b"9"])
def test_a_damaged_line_in_the_middle_is_skipped(run, caplog, damage):
    for seed in (1, 2, 3):
        run.measurements.append(measured(seed))
    log = run.state / "measurements.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b"2.1", b"2." + damage)
    log.write_bytes(b"".join(lines))
    assert seeds_in(run) == [1, 3]
    assert "line 2 is damaged" in caplog.text


def test_a_run_killed_before_its_settings_were_written_starts_again(tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    for name in (".lock", ".run.yaml.0123abcd.tmp"):
        (path / name).touch()
    with pytest.raises(RunDirError, match="omit --resume"):
        RunDir.create(path, resume=True)
    with RunDir.create(path, resume=False):
        assert [entry.name for entry in path.rglob("*")] == [".lock"]


def test_files_of_killed_writers_are_swept_on_open_and_others_are_not(run):
    run.close()
    kept = [run.path / "notes.tmp", run.state / "weights" / ".hidden"]
    swept = [
        run.path / ".report.md.01ab23cd.tmp",
        run.state / "under_way" / "0123456789-3" / ".paused.pt.01ab23cd.tmp",
        run.path / ".best.new.tmp" / "plan.yaml",
    ]
    for path in (*kept, *swept):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    with RunDir.create(run.path, resume=True):
        assert [path.exists() for path in (*kept, *swept)] == [True, True, False, False, False]
        assert not swept[2].parent.exists()
