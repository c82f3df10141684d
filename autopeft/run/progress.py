"""The progress of a search: a line for each measurement; on a terminal a bar stands below them."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from autopeft.report.formatting import duration, last_part
from autopeft.types import Measurement, SearchFacts, rate, shortened

_LABEL = 33  # columns of an arm's name: "baseline: LoRA on all linear layers"
_LEAST_LABEL = 12  # the same on a narrow terminal; chosen by hand
_NUMBERS = 45  # columns of the numbers beside it
_METRIC = 9  # columns of the metric
_BAR = 10  # columns of the bar
_MINUTE = 60.0  # seconds between two lines about the steps of one run

log = logging.getLogger(__name__)


class Lines:
    """A line for each measurement; the first of a phase stands below headings.

    A run that goes on for longer than a minute gets a line with its step each minute.
    """

    def __init__(
        self,
        write: Callable[[str], None] = log.info,
        clock: Callable[[], float] = time.monotonic,
        label: int = _LABEL,
    ) -> None:
        self._write, self._clock, self._label = write, clock, label
        self._setting: SearchFacts | None = None
        self._has_headings = False
        self._written = clock()

    def begin(self, setting: SearchFacts, page: Path) -> None:
        """Write what is searched, and where the page is."""
        self._setting = setting
        for line in facts(setting, page):
            self._write(line)

    def phase(self, name: str, n_measurements: int, *, seconds_left: float | None = None) -> None:
        """Start a phase, whose first measurement gets headings."""
        self._has_headings = False
        runs = {0: "", 1: ": 1 run"}.get(n_measurements, f": up to {n_measurements} runs")
        self._write(f"{name}{runs}{_left(seconds_left)}")

    def measured(self, measurement: Measurement, *, arm: str, seconds_left: float | None) -> None:
        """Write one line about a measurement."""
        if not self._has_headings:
            self._write(headings(self._setting, self._label))
        self._has_headings, self._written = True, self._clock()
        line = describe(measurement, arm, self._setting, label=self._label)
        self._write(f"{line}{_left(seconds_left)}")

    def step(self, step: int, n_steps: int) -> None:
        """Write the step that was reached, once a minute."""
        if self._clock() - self._written >= _MINUTE:
            self._written = self._clock()
            self._write(f"  step {step:,} of {n_steps:,}")

    def close(self) -> None:
        """End the display."""


class Bar(Lines):
    """Lines above a bar, which shows the time that has passed as a share of the expected time."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        label = max(_LEAST_LABEL, min(_LABEL, console.width - _NUMBERS))
        super().__init__(lambda line: console.print(Text(line), soft_wrap=True), clock, label)
        self._phase, self._step = "", ""
        self._n_runs, self._n_done = 0, 0
        self._started = clock()
        self._end: float | None = None  # when the search should end, by the clock
        self._live = Live(console=console, get_renderable=self._render, transient=True, redirect_stdout=False)

    def phase(self, name: str, n_measurements: int, *, seconds_left: float | None = None) -> None:
        """Start a phase; the first one opens the display. Only the bar names a phase without measurements."""
        self._end = None if seconds_left is None else self._clock() + seconds_left
        if n_measurements:
            super().phase(name, n_measurements)
        self._phase, self._n_runs, self._n_done, self._step = name, n_measurements, 0, ""
        if not self._live.is_started:
            stream = sys.stderr
            self._live.start()
            _move_log(stream, sys.stderr)  # the display's own stream, which prints above it

    def measured(self, measurement: Measurement, *, arm: str, seconds_left: float | None) -> None:
        """Write a line, and count the measurement; the line has no time left, since the bar shows it."""
        self._end = None if seconds_left is None else self._clock() + seconds_left
        self._n_done, self._step = self._n_done + 1, ""
        super().measured(measurement, arm=arm, seconds_left=None)

    def step(self, step: int, n_steps: int) -> None:
        """Show the step; the display is drawn again by itself."""
        self._step = f", step {step:,}/{n_steps:,}"

    def close(self) -> None:
        """Take the bar away; the lines stay on the screen."""
        if self._live.is_started:
            within = sys.stderr
            self._live.stop()
            _move_log(within, sys.stderr)

    def _render(self) -> Table:
        now = self._clock()
        spent, total = now - self._started, None
        times = f"{duration(spent)} spent"
        if self._end is not None:
            total = max(self._end - self._started, spent, 1e-9)
            times += f", {duration(total - spent)} left" if total > spent else ""
        row = Table.grid(padding=(0, 1))
        done = f"{self._phase}, {self._n_done} of {self._n_runs}" if self._n_runs else self._phase
        bar = ProgressBar(total=total, completed=spent, width=_BAR, pulse=total is None)
        row.add_row(bar, Text(f"{times} · {done}{self._step}", no_wrap=True, overflow="ellipsis"))
        return row


def _left(seconds: float | None) -> str:
    return f"  {duration(seconds)} left" if seconds else ""


def facts(setting: SearchFacts, page: Path) -> list[str]:
    """Write a line on what is searched, and a line with the path of its page.

    The path is not shortened: a reader copies it.
    """
    model, data = shortened(last_part(setting.base_model), 24), shortened(setting.data, 16)
    rows, steps = f"{setting.splits.train:,} rows", f"{setting.full_run_steps:,} steps"
    searched = f"{model} on {data}: {rows}, {steps}, budget {setting.budget.requested}"
    return [searched, f"report  {page}  (live)"]


def _move_log(old: Any, new: Any) -> None:
    """Let the log handlers that write to the stream `old` write to `new`."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream is old:
            handler.stream = new  # `setStream` would flush the old one, which may be closed


def progress_display(*, quiet: bool) -> Lines:
    """Choose the display for stderr: a bar on a terminal, lines with the time elsewhere, the log if quiet.

    `TERM=dumb` and `TTY_INTERACTIVE=0` ask for lines on a terminal, too: a screen reader would read the bar
    again at every change.
    """
    if quiet:
        return Lines()
    console = Console(stderr=True)
    if console.is_interactive:
        return Bar(console)
    return Lines(lambda line: print(f"{time.strftime('%H:%M:%S')}  {line}", file=sys.stderr, flush=True))


def headings(setting: SearchFacts | None = None, label: int = _LABEL) -> str:
    """Write the headings above lines of `describe`."""
    metric = "" if setting is None or setting.metric_words == "loss" else setting.metric_words
    numbers = f"{'parameters':>11} {'rate':>7} {'steps':>6} {abridged(metric, _METRIC):>{_METRIC}}  loss"
    return f"{'plan':<{label}} {numbers}"


def describe(
    measurement: Measurement, arm: str, setting: SearchFacts | None = None, *, label: int = _LABEL
) -> str:
    """Write a measurement in one line of `label` and 45 columns; an error may be longer.

    The untrained base model has neither rate nor steps.
    """
    plan = measurement.plan
    steps = measurement.fidelity.train_steps
    is_untrained = not plan.adapters and not measurement.trained_steps and measurement.error is None
    trained = f"{'–':>7} {'–':>6}" if is_untrained else f"{rate(plan.learning_rate):>7} {steps:>6,}"
    run = f"{abridged(arm, label):<{label}} {plan.trainable_params:>11,} {trained}"
    if measurement.error is not None:
        return f"{run}  failed: {measurement.error}"
    metric = ""
    if setting is not None and measurement.metric is not None and setting.metric_words != "loss":
        is_share = setting.metric_is_share
        metric = f"{100 * measurement.metric:.1f} %" if is_share else f"{measurement.metric:.4f}"
    return f"{run} {metric:>{_METRIC}}  {measurement.loss:.4f}"


def abridged(arm: str, label: int = _LABEL) -> str:
    """Cut the middle out of an arm's name that is longer than its columns.

    Example:
        >>> abridged("baseline: LoRA on all linear layers of the last layers")
        'baseline: LoRA o… the last layers'
    """
    if len(arm) <= label:
        return arm
    end = (label - 1) // 2
    return f"{arm[: label - 1 - end]}…{arm[-end:]}"
