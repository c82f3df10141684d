"""What the terminal shows while a search runs."""

from __future__ import annotations

import io
from contextlib import contextmanager

import pytest
from rich.console import Console

from autopeft.cli.progress import Lines, Live, Phase, describe, headings, progress_display
from autopeft.records import Fidelity, Measurement, Plan, Status

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
    """A live display on a terminal, and what it wrote. It is closed within the test."""
    shown = io.StringIO()
    live = Live(Console(file=shown, width=width, force_terminal=True, color_system=None), clock=Clock())
    try:
        yield live, shown
    finally:
        live.close()


def lines_of(display):
    """The lines of the part that stays at the bottom."""
    console = Console(width=80, color_system=None)
    with console.capture() as captured:
        console.print(display._render())
    return captured.get().splitlines()


def test_an_error_with_brackets_is_shown_as_it_is():
    with display() as (live, shown):
        live.phase("short runs", 1)
        live.measured(run(error="bad [/close] tag"), arm="head", is_baseline=False, seconds_left=None)
        assert "bad [/close] tag" in " ".join(shown.getvalue().split())


def test_the_bar_covers_the_whole_search_and_counts_down_between_runs():
    with display() as (live, _):
        live.phase("sensitivity", 0)
        live.phase("short runs", 2)
        live.clock.seconds = 30.0
        live.measured(run(0.5), arm="head", is_baseline=False, seconds_left=90.0)
        bar, phase = lines_of(live)
        assert "0:30 spent, about 1:30 left" in bar and phase.startswith("short runs, 1 of 2")
        live.clock.seconds = 50.0
        assert "0:50 spent, about 1:10 left" in lines_of(live)[0]
        live.clock.seconds = 500.0  # later than expected: no negative time
        assert "about 0:00 left" in lines_of(live)[0]


def test_the_best_plan_is_told_beside_the_baseline():
    phase = Phase(name="short runs", total=3)
    phase.add(run(0.4), "baseline: LoRA on q and v", is_baseline=True)
    assert phase.standing == "best is the baseline, 0.4000"
    phase.add(run(error="diverged"), "bitfit/all", is_baseline=False)
    phase.add(run(0.3), "ia3/all", is_baseline=False)
    assert (phase.count, phase.standing) == ("short runs, 3 of 3", "best ia3/all 0.3000, baseline 0.4000")


@pytest.mark.parametrize("arm", ["head", "baseline: LoRA on all linear maps of the last layers", "m" * 99])
def test_a_row_stands_below_its_headings_within_80_columns(arm):
    row = describe(run(0.123456, plan=BIG), arm)
    assert len(row) < 80 and len(headings()) < 80
    assert row.index("0.1235") == headings().index("loss")
    for heading, value in (("parameters", "123,456,789"), ("rate", "1e-3"), ("steps", " 1 ")):
        assert headings().index(heading) + len(heading) == row.index(value) + len(value.rstrip())


def test_a_file_gets_one_line_per_run_and_headings_above_the_first_of_a_phase(capsys):
    lines = Lines()
    lines.phase("sensitivity", 0)
    lines.phase("short runs", 2)
    lines.measured(run(0.5), arm="head", is_baseline=False, seconds_left=65.0)
    lines.phase("full runs", 1)
    first, second, heads, row, last = capsys.readouterr().err.splitlines()
    assert (first, second, heads) == ("sensitivity", "short runs: up to 2 runs", headings())
    assert row.endswith("0.5000  1:05 left")
    assert last == "full runs: 1 run"


@pytest.mark.parametrize(
    ("variables", "kind"),
    [({"TERM": "xterm"}, Live), ({"TERM": "dumb"}, Lines), ({"TTY_INTERACTIVE": "0"}, Lines)],
)
def test_a_terminal_whose_reader_wants_no_display_gets_lines(variables, kind, monkeypatch):
    """`FORCE_COLOR` makes the stream of the test a terminal for rich."""
    for name, value in {"FORCE_COLOR": "1", "TERM": "xterm", **variables}.items():
        monkeypatch.setenv(name, value)
    assert isinstance(progress_display(quiet=False), kind)
