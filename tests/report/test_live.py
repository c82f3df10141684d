"""The live page of a search: when it is written, and what a stopped search leaves."""

from __future__ import annotations

from dataclasses import fields
from types import SimpleNamespace

import pytest
from toys.pages import Page
from toys.results import toy_result
from toys.specs import run_spec

from autopeft import commands
from autopeft.errors import RunDirError
from autopeft.report import progress
from autopeft.report.progress import Lines
from autopeft.store import RunDir
from autopeft.types import SearchSoFar


class Stopping(Lines):
    """Ends the search, as Ctrl-C does, after its second measurement."""

    n_measured, n_steps = 0, 0

    def step(self, step, n_steps):
        self.n_steps += 1
        assert 1 <= step <= n_steps

    def measured(self, measurement, **_):
        self.n_measured += 1
        if self.n_measured == 2:
            raise KeyboardInterrupt


def status_of(run):
    return next(text for text in Page((run / "report.html").read_text()).texts if "nothing is judged" in text)


@pytest.fixture
def stopped(model_dir, data_dir, tmp_path):
    """The folder and the settings of a search that was stopped."""
    settings = {"budget": "5%", "max_steps": 20, "batch_size": 8, "dtype": "float32"}
    spec = run_spec(model_dir, data_dir, out=tmp_path / "run", **settings)
    display = Stopping()
    with pytest.raises(KeyboardInterrupt):
        commands.run_search(spec, progress=display)
    short = RunDir(tmp_path / "run").measurements.load()
    assert display.n_steps == sum(m.trained_steps for m in short)
    return tmp_path / "run", spec


def test_a_stopped_search_leaves_a_page_with_the_command_that_resumes_it(stopped):
    run, spec = stopped
    assert status_of(run) == f"Stopped; nothing is judged. Resume with: autopeft search --resume --out {run}"
    assert len(Page((run / "report.html").read_text()).columns("source")["plan"]) == 2
    assert len((run / "trials.csv").read_text().splitlines()) == 3
    result, _ = commands.run_search(spec, resume=True, progress=Lines())
    shown = (run / "report.html").read_text().replace("−", "-").replace("\u00a0", " ")
    assert result.verdict.sentence in shown
    assert not (run / "state" / "so_far.json").exists()


def test_a_search_that_fails_logs_the_command_that_resumes_it(model_dir, data_dir, tmp_path, caplog):
    class Failing(Lines):
        def measured(self, *_, **__):
            raise RunDirError("the disk is full")

    spec = run_spec(model_dir, data_dir, out=tmp_path / "run", budget="5%", max_steps=8, batch_size=8)
    with pytest.raises(RunDirError, match="the disk is full"):
        commands.run_search(spec, progress=Failing())
    command = f"autopeft search --resume --out {tmp_path / 'run'}"
    assert caplog.messages[-1].endswith(command)
    assert status_of(tmp_path / "run").startswith("Failed: the disk is full; nothing is judged.")


def test_a_page_is_written_at_once_and_then_every_ten_seconds(tmp_path, monkeypatch):
    result, written = toy_result(), []
    so_far = SearchSoFar(**{field.name: getattr(result, field.name) for field in fields(SearchSoFar)})
    now = [0.0]

    def write(*_, status, **__):
        written.append((now[0], status.partition(". As of")[0]))

    monkeypatch.setattr(progress.report, "write_so_far", write)
    page = progress.LivePage(RunDir(tmp_path), so_far, Lines(), clock=lambda: now[0])
    measured = {(m.plan, m.fidelity): m for m in result.measurements}
    page.watch(SimpleNamespace(proposals=list(result.proposals), measured=measured, requested=()))
    page.phase("short runs", 40)
    for n in range(40):
        now[0] += 1.0
        page.measured(result.measurements[0], arm="lora", seconds_left=120.0 - n)
    assert [at for at, _ in written] == [0.0, 10.0, 20.0, 30.0, 40.0]
    assert written[0][1] == "running: short runs, 0 of 40; nothing is judged yet"
    assert written[1][1] == "running: short runs, 10 of 40, 1.9 min left; nothing is judged yet"
