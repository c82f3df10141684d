"""The progress of a search on stderr: a live table on a terminal, plain lines with the time elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live as RichLive
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from autopeft.cli.printing import COLUMNS
from autopeft.records import rate, shortened
from autopeft.report.formatting import last_part
from autopeft.run.live import Silent

if TYPE_CHECKING:
    from autopeft.records import Measurement, SearchFacts

_LABEL = 29  # columns of an arm's name, so that a row fits 80
_LEAST_LABEL = 12  # the same on a narrow terminal; chosen by hand
_METRIC = 9  # columns of the metric
_BAR = 12  # columns of the bar
_MINUTE = 60.0  # seconds between two lines about the steps of one run
_BESIDE_ROWS = 8  # lines of a terminal without rows: headings, bar, log; chosen by hand


@dataclass
class Lines:
    """A line with the time for each measurement; the first of a phase stands below headings.

    A run that goes on for longer than a minute gets a line with its step each minute.
    """

    clock: Callable[[], float] = time.monotonic
    _setting: SearchFacts | None = None
    _has_headings: bool = False
    _printed: float = 0.0  # when the last line was printed, by the clock

    def begin(self, setting: SearchFacts, page: Path) -> None:
        """Print what is searched, and where the page is."""
        self._setting = setting
        for line in facts(setting, page):
            self._print(line)

    def phase(self, name: str, n_measurements: int) -> None:
        """Start a phase, whose first measurement gets headings."""
        self._has_headings = False
        self._print(_title(name, n_measurements))

    def measured(self, measurement: Measurement, *, arm: str, seconds_left: float | None) -> None:
        """Print one line about a measurement."""
        if not self._has_headings:
            self._print(headings(self._setting))
        self._has_headings = True
        time_left = f"  {minutes_seconds(seconds_left)} left" if seconds_left is not None else ""
        self._print(f"{describe(measurement, arm, self._setting)}{time_left}")

    def step(self, step: int, n_steps: int) -> None:
        """Print the step that was reached, once a minute."""
        if self.clock() - self._printed >= _MINUTE:
            self._print(f"  step {step:,} of {n_steps:,}")

    def close(self) -> None:
        """Nothing."""

    def _print(self, line: str) -> None:
        self._printed = self.clock()
        print(f"{time.strftime('%H:%M:%S')}  {line}", file=sys.stderr, flush=True)


@dataclass
class Live:
    """A table of the phase, with a mark at the best plan so far, above one bar for the whole search.

    The bar shows the time that has passed as a share of the expected time. The table of a phase stays on the
    screen when the phase has ended.
    """

    console: Console
    clock: Callable[[], float] = time.monotonic
    _setting: SearchFacts | None = None
    _phase: str = ""
    _n_runs: int = 0
    _step: str = ""
    _rows: list[tuple[Measurement, str]] = field(default_factory=list)
    _end: float | None = None  # when the search should end, by the clock

    def __post_init__(self) -> None:
        self._started = self.clock()
        self._live = RichLive(
            console=self.console,
            get_renderable=self._render,
            refresh_per_second=4,
            transient=True,
            redirect_stdout=False,
        )

    def begin(self, setting: SearchFacts, page: Path) -> None:
        """Print what is searched, and where the page is."""
        self._setting = setting
        for line in facts(setting, page):
            self.console.print(Text(line), soft_wrap=True)

    def phase(self, name: str, n_measurements: int) -> None:
        """Start a phase; the first one opens the display."""
        self._keep_table()
        self._phase, self._n_runs, self._step = name, n_measurements, ""
        if not self._live.is_started:
            stream = sys.stderr
            self._live.start()
            _move_log(stream, sys.stderr)  # the display's own stream, which prints above it

    def measured(self, measurement: Measurement, *, arm: str, seconds_left: float | None) -> None:
        """Add a row about a measurement."""
        self._rows.append((measurement, arm.removeprefix("baseline: ")))
        self._end = None if seconds_left is None else self.clock() + seconds_left
        self._step = ""
        self._live.refresh()

    def step(self, step: int, n_steps: int) -> None:
        """Show the step; the display is drawn again by itself."""
        self._step = f", step {step:,}/{n_steps:,}"

    def close(self) -> None:
        """Take the bar away; the tables stay on the screen."""
        self._keep_table()
        if self._live.is_started:
            within = sys.stderr
            self._live.stop()
            _move_log(within, sys.stderr)

    def _keep_table(self) -> None:
        rows, self._rows = self._rows, []
        for text in self._table(rows):
            self.console.print(text, soft_wrap=True)

    def _table(self, rows: list[tuple[Measurement, str]]) -> list[Text]:
        """Lay out rows below their headings; Text takes no markup, since an error may hold brackets."""
        if not rows:
            return []
        label = max(_LEAST_LABEL, min(_LABEL, _LABEL + self.console.width - COLUMNS))
        leader = min(rows, key=lambda row: _rank(row[0], self._setting))[0]
        lines = [Text(f"  {headings(self._setting, label, plans=self._phase)}", style="dim")]
        for measurement, arm in rows:
            is_leader = measurement is leader and measurement.error is None
            line = f"{'▸' if is_leader else ' '} {describe(measurement, arm, self._setting, label=label)}"
            lines.append(Text(line, style="bold" if is_leader else ""))
        return lines

    def _render(self) -> Group:
        now = self.clock()
        spent, total = now - self._started, None
        times = f"{minutes_seconds(spent)} spent"
        if self._end is not None:
            total = max(self._end - self._started, spent, 1e-9)
            times += f", about {minutes_seconds(total - spent)} left"
        row = Table.grid(padding=(0, 1))
        done = f"{self._phase}, {len(self._rows)} of {self._n_runs}" if self._n_runs else self._phase
        done += self._step
        bar = ProgressBar(total=total, completed=spent, width=_BAR, pulse=total is None)
        row.add_row(bar, Text(f"{times} · {done}", no_wrap=True, overflow="ellipsis"))
        n_shown = max(3, self.console.height - _BESIDE_ROWS)
        return Group(*self._table(self._rows[-n_shown:]), row)


def _rank(measurement: Measurement, setting: SearchFacts | None) -> tuple[float, float]:
    """Order runs for `min`: the best metric, then the lowest loss; runs that failed come last."""
    infinite = float("inf")
    if measurement.loss is None:
        return infinite, infinite
    if measurement.metric is None or setting is None:
        return 0.0, measurement.loss
    return (-1.0 if setting.greater_is_better else 1.0) * measurement.metric, measurement.loss


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


def progress_display(*, quiet: bool) -> Silent | Lines | Live:
    """Choose the display for stderr: live on a terminal, lines in a file or pipe, none if quiet.

    `TERM=dumb` and `TTY_INTERACTIVE=0` ask for lines on a terminal, too: a screen reader would read a live
    display again at every change.
    """
    if quiet:
        return Silent()
    console = Console(stderr=True)
    return Live(console) if console.is_interactive else Lines()


def headings(setting: SearchFacts | None = None, label: int = _LABEL, *, plans: str = "plan") -> str:
    """Write the headings above lines of `describe`; `plans` stands above the names of arms, `label` wide."""
    metric = "" if setting is None or setting.metric_words == "loss" else setting.metric_words
    numbers = f"{'parameters':>11} {'rate':>7} {'steps':>6} {abridged(metric, _METRIC):>{_METRIC}}  loss"
    return f"{abridged(plans, label):<{label}} {numbers}"


def describe(
    measurement: Measurement, arm: str, setting: SearchFacts | None = None, *, label: int = _LABEL
) -> str:
    """Write a measurement in one line of less than 78 columns; an error may be longer.

    The untrained base model has neither rate nor steps. `label` is the width of the arm's name.
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
        >>> abridged("baseline: LoRA on all linear maps of the last layers")
        'baseline: LoRA…he last layers'
    """
    if len(arm) <= label:
        return arm
    end = (label - 1) // 2
    return f"{arm[: label - 1 - end]}…{arm[-end:]}"


def _title(phase: str, n_measurements: int) -> str:
    return {0: phase, 1: f"{phase}: 1 run"}.get(n_measurements, f"{phase}: up to {n_measurements} runs")


def minutes_seconds(seconds: float) -> str:
    """Write seconds as minutes and seconds.

    Example:
        >>> minutes_seconds(125)
        '2:05'
    """
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
