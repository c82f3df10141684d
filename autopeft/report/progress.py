"""The progress of a search: a line for each measurement; on a terminal, a bar below them."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from autopeft.report.formatting import duration, last_part
from autopeft.types import Measurement, SearchFacts, rate, shortened

_LABEL = 33  # columns of an arm's name: "baseline: LoRA on all linear layers"
_METRIC = 9  # columns of the metric
_MINUTE = 60.0  # seconds between two lines about the steps of one run

log = logging.getLogger(__name__)


class Lines:
    """A line for each measurement, and one each minute for the step of a long run."""

    def __init__(
        self, write: Callable[[str], None] = log.info, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._write, self._clock = write, clock
        self._setting: SearchFacts | None = None
        self._has_headings = False
        self._written = clock()

    def begin(self, setting: SearchFacts, page: Path) -> None:
        """Write what is searched, and where the page is."""
        self._setting = setting
        model, data = shortened(last_part(setting.base_model), 24), shortened(setting.data, 16)
        rows, steps = f"{setting.splits.train:,} rows", f"{setting.full_run_steps:,} steps"
        self._write(f"{model} on {data}: {rows}, {steps}, budget {setting.budget.requested}")
        self._write(f"report  {page}  (live)")

    def note(self, line: str) -> None:
        """Write a line."""
        self._write(line)

    def phase(self, name: str, n_measurements: int, *, seconds_left: float | None = None) -> None:
        """Start a phase; its first measurement gets headings."""
        self._has_headings = False
        runs = {0: "", 1: ": 1 run"}.get(n_measurements, f": up to {n_measurements} runs")
        self._write(f"{name}{runs}{_left(seconds_left)}")

    def measured(self, measurement: Measurement, *, arm: str, seconds_left: float | None) -> None:
        """Write one line about a measurement."""
        if not self._has_headings:
            self._write(headings(self._setting))
        self._has_headings, self._written = True, self._clock()
        self._write(f"{describe(measurement, arm, self._setting)}{_left(seconds_left)}")

    def step(self, step: int, n_steps: int) -> None:
        """Write the step that was reached, once a minute."""
        if self._clock() - self._written >= _MINUTE:
            self._written = self._clock()
            self._write(f"  step {step:,} of {n_steps:,}")

    def close(self) -> None:
        """End the display."""


class Bar(Lines):
    """Lines above a bar of the runs of a phase."""

    def __init__(self, console: Console) -> None:
        super().__init__(lambda line: console.print(Text(line), soft_wrap=True))
        columns = TimeElapsedColumn(), BarColumn(10), TextColumn("{task.description}")
        self._progress = Progress(*columns, console=console, transient=True, redirect_stdout=False)
        self._task = self._progress.add_task("", total=None)
        self._phase, self._time_left = "", ""

    def phase(self, name: str, n_measurements: int, *, seconds_left: float | None = None) -> None:
        """Start a phase; the first one opens the display."""
        if n_measurements:
            super().phase(name, n_measurements)
        self._phase, self._time_left = name, _left(seconds_left)
        self._progress.start()
        self._progress.update(self._task, completed=0, total=n_measurements or None)
        self._show()

    def measured(self, measurement: Measurement, *, arm: str, seconds_left: float | None) -> None:
        """Write a line, and count the measurement."""
        self._time_left = _left(seconds_left)
        super().measured(measurement, arm=arm, seconds_left=None)
        self._progress.advance(self._task)
        self._show()

    def step(self, step: int, n_steps: int) -> None:
        """Show the step."""
        self._show(f", step {step:,}/{n_steps:,}")

    def _show(self, step: str = "") -> None:
        (task,) = self._progress.tasks
        done = "" if task.total is None else f", {task.completed:.0f} of {task.total:.0f}"
        self._progress.update(self._task, description=f"{self._phase}{done}{step}{self._time_left}")

    def close(self) -> None:
        """Remove the bar; the lines stay on the screen."""
        self._progress.stop()


def progress_display(*, quiet: bool) -> Lines:
    """Choose the display for stderr: a bar on a terminal, lines with the time elsewhere, the log if quiet."""
    if quiet:
        return Lines()
    console = Console(stderr=True)
    if console.is_interactive:  # not if TERM=dumb or TTY_INTERACTIVE=0, as for screen readers
        return Bar(console)
    return Lines(lambda line: print(f"{time.strftime('%H:%M:%S')}  {line}", file=sys.stderr, flush=True))


def headings(setting: SearchFacts | None = None) -> str:
    """Return the headings above lines of `describe`."""
    metric = "" if setting is None or setting.metric_words == "loss" else setting.metric_words
    numbers = f"{'parameters':>11} {'rate':>7} {'steps':>6} {shortened(metric, _METRIC):>{_METRIC}}  loss"
    return f"{'plan':<{_LABEL}} {numbers}"


def describe(measurement: Measurement, arm: str, setting: SearchFacts | None = None) -> str:
    """Describe a measurement in 79 columns; an error may be longer.

    `Lines` adds the time left, and outside a terminal the time of day. The untrained base model has neither
    rate nor steps.
    """
    plan = measurement.plan
    is_untrained = not plan.adapters and not measurement.trained_steps and measurement.error is None
    rates = "–" if is_untrained else rate(plan.learning_rate)
    steps = "–" if is_untrained else f"{measurement.fidelity.train_steps:,}"
    run = f"{shortened(arm, _LABEL):<{_LABEL}} {plan.trainable_params:>11,} {rates:>7} {steps:>6}"
    if measurement.error is not None:
        return f"{run}  failed: {measurement.error}"
    metric = ""
    if setting is not None and measurement.metric is not None and setting.metric_words != "loss":
        is_share = setting.metric_is_share
        metric = f"{100 * measurement.metric:.1f} %" if is_share else f"{measurement.metric:.4f}"
    return f"{run} {metric:>{_METRIC}}  {measurement.loss:.4f}"


def _left(seconds: float | None) -> str:
    return f"  {duration(seconds)} left" if seconds else ""
