"""What the terminal shows while a search runs."""

from __future__ import annotations

import io
import re
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from toys.results import SETTING

from autopeft.report.progress import Lines, describe, headings, progress_display
from autopeft.types import Fidelity, Measurement, Plan, Status

HEAD = Plan(adapters=(), learning_rate=1e-3, trainable_params=0)
BIG = Plan(adapters=(), learning_rate=1e-3, trainable_params=123_456_789)
FIDELITY = Fidelity(split="search", train_steps=1, train_examples=1, eval_examples=1, seed=0)


def run(loss=None, *, plan=HEAD, error=None, trained_steps=1):
    status = Status.COMPLETE if error is None else Status.FAIL
    measured = {"status": status, "loss": loss, "error": error, "trained_steps": trained_steps}
    return Measurement(plan=plan, fidelity=FIDELITY, **measured)


class Clock:
    seconds = 0.0

    def __call__(self):
        return self.seconds


@contextmanager
def display(width=80):
    """A display on a terminal, and what it wrote. It is closed within the test."""
    shown = io.StringIO()
    console = Console(file=shown, width=width, force_terminal=True, color_system=None)
    live = progress_display(quiet=False, console=console)
    try:
        yield live, shown
    finally:
        live.close()


def test_an_error_with_brackets_is_shown_as_it_is():
    with display() as (live, shown):
        live.phase("short runs", 1)
        live.measured(run(error="bad [/close] tag"), arm="head", seconds_left=None)
        live.phase("full runs", 1)
        assert "bad [/close] tag" in " ".join(shown.getvalue().split())


def test_a_terminal_shows_the_state_of_a_phase_below_the_lines():
    with display() as (live, shown):
        live.begin(SETTING, Path("runs/a/report.html"))
        live.phase("short runs", 12)
        live.measured(replace(run(0.3), metric=0.92), arm="second", seconds_left=3661.0)
        assert "runs/a/report.html" in shown.getvalue() and "92.0 %  0.3000" in shown.getvalue()
        live.step(312, 1954)
        assert str(live._status.status) == "short runs, 1 of 12, step 312 of 1,954, 61.0 min left"


@pytest.mark.parametrize("arm", ["head", "baseline: LoRA on all linear layers in the last layers", "m" * 99])
def test_a_row_is_below_its_headings_within_80_columns(arm):
    row = describe(run(0.123456, plan=BIG), arm)
    assert len(row) <= 79 and len(headings()) <= 79
    assert row.index("0.1235") == headings().index("loss")
    for heading, value in (("parameters", "123,456,789"), ("rate", "1e-3"), ("steps", " 1 ")):
        assert headings().index(heading) + len(heading) == row.index(value) + len(value.rstrip())


def test_a_wide_terminal_shows_whole_names():
    name = "baseline: LoRA on all linear layers in the last layers"
    for width, is_whole in ((80, False), (120, True)):
        with display(width=width) as (live, shown):
            live.begin(SETTING, Path("report.html"))
            live.phase("short runs", 2)
            live.measured(run(0.3, plan=BIG), arm=name, seconds_left=5.0)
        lines = re.sub(r"\x1b\[[\d?]*[A-Za-z]", "", shown.getvalue()).splitlines()
        assert any(name in line for line in lines) == is_whole
        assert all(len(line.rstrip()) < width for line in lines if "123,456,789" in line)


def test_a_file_gets_a_line_with_the_time_per_run_and_headings_above_the_first_of_a_phase(
    capsys, monkeypatch
):
    monkeypatch.setenv("TERM", "dumb")
    lines = progress_display(quiet=False)
    lines.begin(SETTING, Path("report.html"))
    lines.phase("sensitivity", 0)
    lines.phase("short runs", 2)
    lines.measured(replace(run(0.5), metric=0.9), arm="head", seconds_left=65.0)
    lines.phase("full runs", 1, seconds_left=4000.0)
    shown = capsys.readouterr().err.splitlines()
    assert all(re.match(r"\d\d:\d\d:\d\d  ", line) for line in shown)
    searched, page, first, second, heads, row, last = [line[10:] for line in shown]
    assert "4,000 rows, 300 steps, budget 10k" in searched and "report.html" in page
    assert (first, second, heads) == ("sensitivity", "short runs: up to 2 runs", headings(SETTING))
    assert row.endswith("90.0 %  0.5000  65 s left")
    assert last == "full runs: 1 run  66.7 min left"


def test_a_long_run_says_each_minute_which_step_it_has_reached():
    shown, clock = [], Clock()
    lines = Lines(shown.append, clock=clock)
    for step in range(1, 8):
        clock.seconds += 25.0
        lines.step(step, 954)
    assert shown == ["  step 3 of 954", "  step 6 of 954"]
