"""`train --resume` and searches: what was stopped goes on, to the files of an unbroken training."""

from __future__ import annotations

import errno
import itertools
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from toys.bases import plan_of_queries
from toys.specs import run_spec
from typer.testing import CliRunner

from autopeft import commands
from autopeft.cli.app import app
from autopeft.commands import search
from autopeft.commands.train import _Steps
from autopeft.errors import RunDirError
from autopeft.report.progress import Lines
from autopeft.store import write_plan
from autopeft.train import bench, kept_step, pausing

N_STEPS = 12
WEIGHTS = "adapter_model.safetensors"
# A command whose states are a step apart instead of a minute; prints nothing of its own.
STEP_BY_STEP = """
import sys
from autopeft.train import pausing
pausing._SECONDS, pausing._SHARE = 0.0, 1e9
from autopeft.cli.app import app
app(sys.argv[1:])
"""


@pytest.fixture
def plan_file(model_dir, data_dir, tmp_path):
    """The plan.yaml of a LoRA of rank 2 on all queries of the toy model."""
    document = plan_of_queries(model_dir, data_dir, max_steps=N_STEPS)
    write_plan(tmp_path / "plan.yaml", document)
    return tmp_path / "plan.yaml"


@pytest.fixture
def step_by_step(monkeypatch):
    """States are kept after every step, not a minute apart."""
    monkeypatch.setattr(pausing, "_SECONDS", 0.0)
    monkeypatch.setattr(pausing, "_SHARE", 1e9)


@pytest.fixture
def stop_at(monkeypatch, step_by_step):
    """A function: a step -> a context in which a signal comes after it, before its state is kept."""

    def patch(step, error=KeyboardInterrupt):
        add = _Steps.add

        def stopping(self, done, n_steps, loss):
            add(self, done, n_steps, loss)
            if done == step:
                raise error

        monkeypatch.setattr(_Steps, "add", stopping)
        return lambda: monkeypatch.setattr(_Steps, "add", add)

    return patch


def stopped(plan_file, out, stop_at, *, step=7):
    undo = stop_at(step)
    with pytest.raises(KeyboardInterrupt):
        commands.train_plan(plan_file, out=out)
    undo()
    return out.with_name(f"{out.name}.unfinished")


def what_is_in(folder):
    """The bytes of the weights, and the measurement without its seconds."""
    training = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    measured = {name: value for name, value in training.items() if "seconds" not in name}
    return (folder / WEIGHTS).read_bytes(), measured


def test_a_second_training_with_the_same_out_is_refused(plan_file, tmp_path, monkeypatch):
    add, refused = _Steps.add, []

    def adding(self, done, n_steps, loss):
        add(self, done, n_steps, loss)
        if not refused:
            with pytest.raises(RunDirError, match="in use by another process") as caught:
                commands.train_plan(plan_file, out=tmp_path / "adapter")
            refused.append(caught)

    monkeypatch.setattr(_Steps, "add", adding)
    commands.train_plan(plan_file, out=tmp_path / "adapter")
    assert refused and (tmp_path / "adapter" / WEIGHTS).is_file()
    assert [path.name for path in tmp_path.iterdir() if "unfinished" in path.name] == []


def test_a_stopped_training_resumes_to_the_bytes_of_an_unbroken_one(plan_file, tmp_path, stop_at, caplog):
    out = tmp_path / "new" / "adapter"
    unfinished = stopped(plan_file, out, stop_at)
    assert not out.exists() and kept_step(unfinished / "state") == 6
    assert "step 6 is kept" in caplog.messages[-1]
    with pytest.raises(RunDirError, match="after step 6"):
        commands.train_plan(plan_file, out=out)
    seen = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(_Steps, "add", lambda _, step, *__: seen.append(step))
        commands.train_plan(plan_file, out=out, resume=True)
    assert seen == [*range(7, N_STEPS + 1)]
    assert what_is_in(out) == what_is_in(commands.train_plan(plan_file, out=tmp_path / "unbroken").folder)
    assert sorted(path.name for path in out.parent.iterdir()) == ["adapter"]


def test_what_is_resumed_is_the_same_training(plan_file, data_dir, tmp_path, stop_at):
    out = tmp_path / "adapter"
    stopped(plan_file, out, stop_at)
    with pytest.raises(RunDirError, match="seed was 0 and is now 5"):
        commands.train_plan(plan_file, out=out, resume=True, seed=5)
    other = tmp_path / "data"
    other.mkdir()
    for path in data_dir.glob("*.csv"):
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        (other / path.name).write_text("".join(lines[:-1]), encoding="utf-8")
    with pytest.raises(RunDirError, match="data_fingerprint was"):
        commands.train_plan(plan_file, run_spec(data=other), out=out, resume=True)
    assert commands.train_plan(plan_file, out=out, resume=True).folder == out  # neither has changed it


def test_nothing_to_resume_is_said(plan_file, tmp_path):
    with pytest.raises(RunDirError, match="holds no unfinished training; start it without --resume"):
        commands.train_plan(plan_file, out=tmp_path / "new" / "adapter", resume=True)
    assert not (tmp_path / "new").exists()


def test_a_training_that_was_stopped_before_its_first_state_leaves_nothing(plan_file, tmp_path, stop_at):
    unfinished = stopped(plan_file, tmp_path / "new" / "adapter", stop_at, step=1)
    assert not unfinished.exists()


def test_the_command_that_was_killed_resumes(plan_file, tmp_path):
    out, words = tmp_path / "adapter", ["train", "--plan", str(plan_file), "--out", str(tmp_path / "adapter")]
    state = tmp_path / "adapter.unfinished" / "state"
    plan_file.write_text(
        plan_file.read_text(encoding="utf-8").replace(f"max_steps: {N_STEPS}", "max_steps: 400"),
        encoding="utf-8",
    )
    with subprocess.Popen([sys.executable, "-c", STEP_BY_STEP, *words], stderr=subprocess.DEVNULL) as process:
        for _ in range(1200):
            if (kept_step(state) or 0) >= 3 or process.poll() is not None:
                break
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
    assert 3 <= kept_step(state) < 400 and not out.exists()
    refused = CliRunner().invoke(app, words)
    assert refused.exit_code == 2 and "pass --resume" in " ".join(refused.stderr.split())
    done = CliRunner().invoke(app, [*words, "--resume"])
    assert done.exit_code == 0 and f"adapter {out}" in done.stdout, done.output
    unbroken = commands.train_plan(plan_file, out=tmp_path / "unbroken").folder
    assert what_is_in(out) == what_is_in(unbroken)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "plan.yaml", "unbroken"]


@pytest.mark.parametrize("where", [(3, 5), (9, 12)], ids=["first short run", "full run"])
def test_a_search_that_was_stopped_within_a_run_resumes_within_it(
    where, model_dir, data_dir, tmp_path, step_by_step
):
    """The state after the step before `where`, a step and how many there are, was the last to be kept."""
    seen = []
    spec = run_spec(model_dir, data_dir, out=tmp_path / "run", max_steps=12, batch_size=8, budget="5%")

    class Stops(Lines):
        def step(self, step, n_steps):
            if (step, n_steps) == where:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        commands.run_search(spec, progress=Stops())
    commands.run_search(run_spec(out=spec.output.out), resume=True, progress=Sees(seen))
    assert seen[0] == where


class Sees(Lines):
    """Notes each step, and how many there are."""

    def __init__(self, seen):
        super().__init__()
        self.seen = seen

    def step(self, step, n_steps):
        self.seen.append((step, n_steps))


def test_a_search_that_was_stopped_before_its_first_run_keeps_the_sensitivity(
    model_dir, data_dir, tmp_path, monkeypatch, caplog
):
    spec = run_spec(model_dir, data_dir, out=tmp_path / "run", max_steps=8, batch_size=8, budget="5%")

    class Stops(Lines):
        def begin(self, *_):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        commands.run_search(spec, progress=Stops())
    command = f"autopeft search --resume --out {tmp_path / 'run'}"
    assert caplog.messages[-1] == f"What was measured is kept; resume with: {command}"
    monkeypatch.setattr(search, "logged_scores", lambda *_, **__: pytest.fail("it was measured before"))
    commands.run_search(run_spec(out=spec.output.out), resume=True, progress=Lines())


def test_a_challenger_that_the_machine_broke_off_resumes_although_the_search_ended(
    model_dir, data_dir, tmp_path, monkeypatch, step_by_step, caplog
):
    seen, n_saved = [], itertools.count(1)
    spec = run_spec(model_dir, data_dir, out=tmp_path / "run", max_steps=12, batch_size=8, budget="5%")
    save = bench.save_weights

    def fails_once(*arguments):
        if next(n_saved) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(*arguments)

    monkeypatch.setattr(bench, "save_weights", fails_once)
    result, _ = commands.run_search(spec, progress=Lines())
    assert [run.name for run in result.full_runs] == ["best"]
    assert "No space left on device; --resume tries it again." in caplog.text
    result, _ = commands.run_search(run_spec(out=spec.output.out), resume=True, progress=Sees(seen))
    assert len(result.full_runs) == 2 and not seen  # only its evaluation was left
    assert not (tmp_path / "run/state/under_way").exists()
