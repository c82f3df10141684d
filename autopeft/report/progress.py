"""The progress of a search: lines and a status on the terminal, and a live page.

The page is `report.html` of a run that is unfinished or was stopped, with `trials.csv`.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.status import Status
from rich.text import Text

from autopeft import report
from autopeft.engine import Driver
from autopeft.errors import RunDirError, reason_of
from autopeft.report.charts import LossCurve, read_points
from autopeft.report.formatting import NOTHING, duration, last_part, learning_rate, metric
from autopeft.report.part_words import part_words
from autopeft.report.plan_names import name_of
from autopeft.store import RunDir
from autopeft.types import Measurement, SearchFacts, SearchSoFar, resume_command, shortened

_LABEL = 33  # columns of an arm's name on 80 columns: "baseline: LoRA on all linear layers"
_LONGEST_LABEL = 60  # columns of an arm's name on a wide terminal
_METRIC = 9  # columns of the metric
_MINUTE = 60.0  # seconds between two lines about the steps of one run
_PAUSE_SECONDS = 10.0  # between two writings of the page, which take a tenth of a second; heuristic

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
        label_width: int = _LABEL,
    ) -> None:
        self._write, self._clock, self._status, self._label_width = write, clock, status, label_width
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
            self.note(headings(self._setting, self._label_width))
        self._n_done, self._written = self._n_done + 1, self._clock()
        self.note(f"{describe(measurement, arm, self._setting, self._label_width)}{self._left()}")
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
        return Lines(
            lambda line: console.print(Text(line), soft_wrap=True),
            status=console.status(""),
            label_width=max(_LABEL, min(_LONGEST_LABEL, _LABEL + console.width - 80)),
        )
    return Lines(lambda line: print(f"{time.strftime('%H:%M:%S')}  {line}", file=sys.stderr, flush=True))


def headings(setting: SearchFacts | None = None, label_width: int = _LABEL) -> str:
    """Return the headings above lines of `describe`."""
    name = "" if setting is None or setting.metric_words == "loss" else setting.metric_words
    numbers = f"{'parameters':>11} {'rate':>7} {'steps':>6} {shortened(name, _METRIC):>{_METRIC}}  loss"
    return f"{'plan':<{label_width}} {numbers}"


def describe(
    measurement: Measurement, arm: str, setting: SearchFacts | None = None, label_width: int = _LABEL
) -> str:
    """Describe a measurement in 46 columns and those of the name; an error may be longer.

    The untrained base model has neither rate nor steps.
    """
    plan = measurement.plan
    is_untrained = not plan.adapters and not measurement.trained_steps and measurement.error is None
    rate = learning_rate(None if is_untrained else plan.learning_rate)
    steps = NOTHING if is_untrained else f"{measurement.fidelity.train_steps:,}"
    run = f"{shortened(arm, label_width):<{label_width}} {plan.trainable_params:>11,} {rate:>7} {steps:>6}"
    if measurement.error is not None:
        return f"{run}  failed: {measurement.error}"
    score = ""
    if setting is not None and measurement.metric is not None and setting.metric_words != "loss":
        score = metric(measurement.metric, setting.metric_is_share)
    return f"{run} {score:>{_METRIC}}  {measurement.loss:.4f}"


class LivePage:
    """A display of a search that also writes its page."""

    def __init__(
        self,
        run: RunDir,
        so_far: SearchSoFar,
        display: Lines,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run, self._so_far, self._display, self._clock = run, so_far, display, clock
        self._words = part_words(so_far)
        display.begin(so_far.setting, run.path / "report.html")
        self._driver: Driver | None = None
        self._next = clock()

    def watch(self, driver: Driver) -> None:
        """Show the proposals and measurements of a search."""
        self._driver = driver

    def phase(self, name: str, n_measurements: int, *, seconds_left: float | None = None) -> None:
        """Show that a phase begins."""
        self._display.phase(name, n_measurements, seconds_left=seconds_left)
        self.waiting()

    def measured(self, measurement: Measurement, *, arm: str, seconds_left: float | None) -> None:
        """Show a measurement."""
        self._display.measured(measurement, arm=arm, seconds_left=seconds_left)
        self.waiting()

    def step(self, step: int, n_steps: int, _loss: Callable[[], float]) -> None:
        """Show a training step of this process."""
        self._display.step(step, n_steps)
        self.waiting()

    def waiting(self) -> None:
        """Write the page if the last one is ten seconds old; the loss curves of other processes move too."""
        if self._clock() < self._next:
            return
        state = f"running: {self._display.state}; nothing is judged yet"
        try:
            self.write(f"{state}. As of {datetime.now():%H:%M:%S}")
        except RunDirError as error:  # the search continues without its page
            log.warning("%s", error)
        self._next = self._clock() + _PAUSE_SECONDS

    def write(self, status: str) -> None:
        """Write the page and the trials; nothing before `watch` was called."""
        if self._driver is None:
            return
        measured = tuple(self._driver.measured.values())
        search = replace(self._so_far, proposals=tuple(self._driver.proposals), measurements=measured)
        report.write_so_far(
            search, self._run.path, words=self._words, status=status, curves=self._curves(self._driver)
        )

    def _curves(self, driver: Driver) -> list[LossCurve]:
        """Read the losses of the latest full runs."""
        return [
            LossCurve(
                words=name_of(plan, self._so_far, self._words.labels),
                n_steps=fidelity.train_steps,
                points=read_points(self._run.curve(plan, fidelity)),
            )
            for plan, fidelity, _ in driver.requested
            if fidelity.split == "confirm"
        ]


@contextmanager
def live_page(run: RunDir, so_far: SearchSoFar, display: Lines) -> Iterator[LivePage]:
    """Yield a live page; if the search stops or fails, the page shows why and how to resume it."""
    page = LivePage(run, so_far, display)
    try:
        yield page
    except BaseException as error:
        how = f"failed: {reason_of(error)}" if isinstance(error, Exception) else "stopped"
        command = resume_command(so_far.spec, run.path)
        with suppress(RunDirError):  # the disk may be full
            page.write(f"{how}; nothing is judged. Resume with: {command}")
        raise
