"""The progress of a search on stderr: a live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live as RichLive
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from autopeft.cli.printing import COLUMNS
from autopeft.records import rate

if TYPE_CHECKING:
    from autopeft.records import Measurement

_LABEL = 38  # columns of an arm's name, so that a row fits 80
_LEAST_LABEL = 12  # the same on a narrow terminal; chosen by hand
_BAR = 24  # columns of the bar


class Silent:
    """Shows nothing."""

    def phase(self, name: str, n_measurements: int) -> None:
        """Nothing."""

    def measured(
        self, measurement: Measurement, *, arm: str, is_baseline: bool, seconds_left: float | None
    ) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


@dataclass
class Phase:
    """What is known of the current phase: how far it is, and its lowest losses.

    `best` and `baseline` are (arm, loss) of the best plan and of the best baseline, None before there is one.
    """

    name: str = ""
    total: int = 0
    done: int = 0
    best: tuple[str, float] | None = None
    baseline: tuple[str, float] | None = None

    def add(self, measurement: Measurement, arm: str, *, is_baseline: bool) -> None:
        """Count one measurement."""
        self.done += 1
        if measurement.loss is None:
            return
        scored = (arm, measurement.loss)
        self.best = min(self.best or scored, scored, key=itemgetter(1))
        if is_baseline:
            self.baseline = min(self.baseline or scored, scored, key=itemgetter(1))

    @property
    def count(self) -> str:
        """`short runs, 3 of 8`; the name alone where nothing is counted."""
        return f"{self.name}, {self.done} of {self.total}" if self.total else self.name

    @property
    def standing(self) -> str:
        """The best plan beside the baseline: `best ia3/all 0.2337, baseline 0.2539`."""
        if self.best is None:
            return ""
        arm, loss = self.best
        if self.baseline is None:
            return f"best {abridged(arm)} {loss:.4f}"
        if self.baseline == self.best:
            return f"best is the baseline, {loss:.4f}"
        return f"best {abridged(arm)} {loss:.4f}, baseline {self.baseline[1]:.4f}"


class Lines:
    """One line per measurement; the first of a phase stands below headings."""

    def __init__(self) -> None:
        self._has_headings = False

    def phase(self, name: str, n_measurements: int) -> None:
        """Start a phase, whose first measurement gets headings."""
        self._has_headings = False
        print(_title(name, n_measurements), file=sys.stderr, flush=True)

    def measured(
        self, measurement: Measurement, *, arm: str, is_baseline: bool, seconds_left: float | None
    ) -> None:
        """Print one line about a measurement."""
        if not self._has_headings:
            print(headings(), file=sys.stderr, flush=True)
        self._has_headings = True
        time_left = f"  {minutes_seconds(seconds_left)} left" if seconds_left is not None else ""
        print(f"{describe(measurement, arm)}{time_left}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Nothing."""


@dataclass
class Live:
    """One bar over the whole search and one line for the phase, below a line per measurement.

    The bar is the share of time: what has passed of what has passed and is left.
    """

    console: Console
    clock: Callable[[], float] = time.monotonic
    _phase: Phase = field(default_factory=Phase)
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

    def phase(self, name: str, n_measurements: int) -> None:
        """Start a phase; the first one opens the display, and one that counts runs prints its title."""
        self._phase = Phase(name=name, total=n_measurements)
        if not self._live.is_started:
            stream = sys.stderr
            self._live.start()
            _move_log(stream, sys.stderr)  # the display's own stream, which prints above it
        if n_measurements:
            self.console.print(Text(_title(name, n_measurements), style="bold"))

    def measured(
        self, measurement: Measurement, *, arm: str, is_baseline: bool, seconds_left: float | None
    ) -> None:
        """Advance the display, and print one line about a measurement."""
        if not self._phase.done:
            self.console.print(Text(headings(self._label), style="dim"), soft_wrap=True)
        self._phase.add(measurement, arm, is_baseline=is_baseline)
        self._end = None if seconds_left is None else self.clock() + seconds_left
        # Text takes no markup: an error may hold brackets.
        self.console.print(Text(describe(measurement, arm, label=self._label)))
        self._live.refresh()

    def close(self) -> None:
        """Take the display away; the lines stay on the screen."""
        if self._live.is_started:
            within = sys.stderr
            self._live.stop()
            _move_log(within, sys.stderr)

    @property
    def _label(self) -> int:
        """Columns of an arm's name."""
        return max(_LEAST_LABEL, min(_LABEL, _LABEL + self.console.width - COLUMNS))

    def _render(self) -> Group:
        now = self.clock()
        spent, total = now - self._started, None
        times = f"{minutes_seconds(spent)} spent"
        if self._end is not None:
            total = max(self._end - self._started, spent, 1e-9)
            times += f", about {minutes_seconds(total - spent)} left"
        row = Table.grid(padding=(0, 1))
        row.add_row(ProgressBar(total=total, completed=spent, width=_BAR, pulse=total is None), Text(times))
        line = Text(f"{self._phase.count}  {self._phase.standing}", no_wrap=True, overflow="ellipsis")
        return Group(row, line)


def _move_log(old: Any, new: Any) -> None:
    """Let the log handlers that write to one stream write to another."""
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


def headings(label: int = _LABEL) -> str:
    """The headings of `describe`, with so many columns for the name of an arm."""
    return f"{'arm':<{label}} {'parameters':>11} {'rate':>7} {'steps':>6}  loss"


def describe(measurement: Measurement, arm: str, *, label: int = _LABEL) -> str:
    """Write a measurement in one line of less than 80 columns; an error may be longer.

    The base model as it is, without a head to train, has neither rate nor steps.
    """
    plan = measurement.plan
    steps = measurement.fidelity.train_steps
    is_untrained = not plan.adapters and not measurement.trained_steps and measurement.error is None
    trained = f"{'–':>7} {'–':>6}" if is_untrained else f"{rate(plan.learning_rate):>7} {steps:>6,}"
    run = f"{abridged(arm, label):<{label}} {plan.trainable_params:>11,} {trained}"
    outcome = f"{measurement.loss:.4f}" if measurement.error is None else f"failed: {measurement.error}"
    return f"{run}  {outcome}"


def abridged(arm: str, label: int = _LABEL) -> str:
    """Cut the middle out of an arm's name that is longer than its columns.

    Example:
        >>> abridged("baseline: LoRA on all linear maps of the last layers")
        'baseline: LoRA on a…of the last layers'
    """
    if len(arm) <= label:
        return arm
    end = (label - 1) // 2
    return f"{arm[: label - 1 - end]}…{arm[-end:]}"


def _title(phase: str, n_measurements: int) -> str:
    """A phase with how many runs it may take; time or cost may pay for fewer."""
    return {0: phase, 1: f"{phase}: 1 run"}.get(n_measurements, f"{phase}: up to {n_measurements} runs")


def minutes_seconds(seconds: float) -> str:
    """Minutes and seconds.

    Example:
        >>> minutes_seconds(125)
        '2:05'
    """
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
