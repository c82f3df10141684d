"""The progress of a search: a line for each measurement; on a terminal, a status below them."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.status import Status
from rich.text import Text

from autopeft.report.formatting import NOTHING, duration, last_part, learning_rate, metric
from autopeft.types import Measurement, SearchFacts, shortened

_LABEL = 33  # columns of an arm's name: "baseline: LoRA on all linear layers"
_METRIC = 9  # columns of the metric
_MINUTE = 60.0  # seconds between two lines about the steps of one run

log = logging.getLogger(__name__)


class Lines:
    """A line for each measurement.

    The state of the search is shown in `status`, or else the step of a long run in a line each minute.
    """

    def __init__(
        self,
        write: Callable[[str], None] = log.info,
        clock: Callable[[], float] = time.monotonic,
        status: Status | None = None,
    ) -> None:
        self._write, self._clock, self._status = write, clock, status
        self._setting: SearchFacts | None = None
        self._phase, self._n_runs, self._n_done, self._step = "", 0, 0, ""
        self._seconds_left: float | None = None
        self._written = clock()

    @property
    def state(self) -> str:
        """How far the search is, such as `short runs, 1 of 12, step 20 of 60, 5.0 min left`."""
        runs = f", {self._n_done} of {self._n_runs}" if self._n_runs else ""
        left = f", {duration(self._seconds_left)} left" if self._seconds_left else ""
        return f"{self._phase}{runs}{self._step}{left}"

    def begin(self, setting: SearchFacts, page: Path) -> None:
        """Write what is searched, and where the page is."""
        self._setting = setting
        model, data = shortened(last_part(setting.base_model), 24), shortened(setting.data, 16)
        rows, steps = f"{setting.splits.train:,} rows", f"{setting.full_run_steps:,} steps"
        self.note(f"{model} on {data}: {rows}, {steps}, budget {setting.budget.requested}")
        self.note(f"report  {page}  (live)")

    def note(self, line: str) -> None:
        """Write a line."""
        self._write(line)

    def phase(self, name: str, n_measurements: int, *, seconds_left: float | None = None) -> None:
        """Start a phase; its first measurement gets headings."""
        self._phase, self._n_runs, self._n_done, self._step = name, n_measurements, 0, ""
        self._seconds_left = seconds_left
        runs = {0: "", 1: ": 1 run"}.get(n_measurements, f": up to {n_measurements} runs")
        self.note(f"{name}{runs}{self._left()}")
        self._show()

    def measured(self, measurement: Measurement, *, arm: str, seconds_left: float | None) -> None:
        """Write one line about a measurement."""
        self._seconds_left, self._step = seconds_left, ""
        if not self._n_done:
            self.note(headings(self._setting))
        self._n_done, self._written = self._n_done + 1, self._clock()
        self.note(f"{describe(measurement, arm, self._setting)}{self._left()}")
        self._show()

    def step(self, step: int, n_steps: int) -> None:
        """Show the step that was reached."""
        self._step = f", step {step:,} of {n_steps:,}"
        if self._status is None and self._clock() - self._written >= _MINUTE:
            self._written = self._clock()
            self.note(f"  step {step:,} of {n_steps:,}")
        self._show()

    def close(self) -> None:
        """End the display; the lines stay on the screen."""
        if self._status is not None:
            self._status.stop()

    def _left(self) -> str:
        """Return the time left for the end of a line, if the status does not show it."""
        return f"  {duration(self._seconds_left)} left" if self._seconds_left and not self._status else ""

    def _show(self) -> None:
        if self._status is not None:
            self._status.update(Text(self.state))
            self._status.start()


def progress_display(*, quiet: bool, console: Console | None = None) -> Lines:
    """Choose the display for stderr: with a status on a terminal, with times elsewhere, the log if quiet."""
    if quiet:
        return Lines()
    console = console or Console(stderr=True)
    if console.is_interactive:  # not if TERM=dumb or TTY_INTERACTIVE=0, as for screen readers
        return Lines(lambda line: console.print(Text(line), soft_wrap=True), status=console.status(""))
    return Lines(lambda line: print(f"{time.strftime('%H:%M:%S')}  {line}", file=sys.stderr, flush=True))


def headings(setting: SearchFacts | None = None) -> str:
    """Return the headings above lines of `describe`."""
    name = "" if setting is None or setting.metric_words == "loss" else setting.metric_words
    numbers = f"{'parameters':>11} {'rate':>7} {'steps':>6} {shortened(name, _METRIC):>{_METRIC}}  loss"
    return f"{'plan':<{_LABEL}} {numbers}"


def describe(measurement: Measurement, arm: str, setting: SearchFacts | None = None) -> str:
    """Describe a measurement in 79 columns; an error may be longer.

    The untrained base model has neither rate nor steps.
    """
    plan = measurement.plan
    is_untrained = not plan.adapters and not measurement.trained_steps and measurement.error is None
    rate = learning_rate(None if is_untrained else plan.learning_rate)
    steps = NOTHING if is_untrained else f"{measurement.fidelity.train_steps:,}"
    run = f"{shortened(arm, _LABEL):<{_LABEL}} {plan.trainable_params:>11,} {rate:>7} {steps:>6}"
    if measurement.error is not None:
        return f"{run}  failed: {measurement.error}"
    score = ""
    if setting is not None and measurement.metric is not None and setting.metric_words != "loss":
        score = metric(measurement.metric, setting.metric_is_share)
    return f"{run} {score:>{_METRIC}}  {measurement.loss:.4f}"
