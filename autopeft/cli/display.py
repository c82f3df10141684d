"""The progress of a search: a live display on a terminal, plain lines elsewhere; always on stderr."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

if TYPE_CHECKING:
    from autopeft.records import Measurement


class Silent:
    """Says nothing."""

    def phase(self, name: str, n_measurements: int) -> None:
        """Nothing."""

    def measured(self, measurement: Measurement, *, arm: str, seconds_left: float | None) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


@dataclass
class Lines:
    """One line per measurement."""

    name: str = ""
    total: int = 0
    done: int = 0
    best: float | None = None

    def phase(self, name: str, n_measurements: int) -> None:
        """Begin to count anew."""
        self.name, self.total, self.done, self.best = name, n_measurements, 0, None
        if not n_measurements:
            print(name, file=sys.stderr, flush=True)

    def measured(self, measurement: Measurement, *, arm: str, seconds_left: float | None) -> None:
        """Say what was measured."""
        self.done += 1
        if measurement.loss is not None:
            self.best = measurement.loss if self.best is None else min(self.best, measurement.loss)
        left = f"  {clock(seconds_left)} left" if seconds_left is not None else ""
        best = f"  best {self.best:.4f}" if self.best is not None else ""
        counted = f"{self.name} {self.done}/{self.total}"
        print(f"{counted:<18} {describe(measurement, arm)}{best}{left}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Nothing is held."""


@dataclass
class Live:
    """A bar per phase, the last measurement and the best so far under it."""

    console: Console
    _bars: Progress | None = None
    _task: TaskID | None = None
    _counts: Lines = field(default_factory=Lines)

    def phase(self, name: str, n_measurements: int) -> None:
        """Open the next bar."""
        bars = self._open()
        self._counts.name, self._counts.best = name, None
        self._task = bars.add_task(name, total=n_measurements or None, note="")

    def measured(self, measurement: Measurement, *, arm: str, seconds_left: float | None) -> None:
        """Move the bar on."""
        bars, counts = self._open(), self._counts
        if measurement.loss is not None:
            counts.best = measurement.loss if counts.best is None else min(counts.best, measurement.loss)
        best = f"best {counts.best:.4f}" if counts.best is not None else "none yet"
        left = f", {clock(seconds_left)} left" if seconds_left is not None else ""
        if self._task is not None:
            bars.update(self._task, advance=1, note=f"{best}{left}")
        # No markup: an error's text may hold brackets.
        bars.console.print(describe(measurement, arm), style="dim", markup=False, highlight=False)

    def close(self) -> None:
        """Leave the bars as they are."""
        if self._bars is not None:
            self._bars.stop()

    def _open(self) -> Progress:
        if self._bars is None:
            self._bars = Progress(
                SpinnerColumn(),
                TextColumn("{task.description:<12}"),
                BarColumn(bar_width=20),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[note]}"),
                console=self.console,
            )
            self._bars.start()
        return self._bars


def display(*, quiet: bool) -> Silent | Lines | Live:
    """The display that fits where stderr goes."""
    if quiet:
        return Silent()
    console = Console(stderr=True)
    return Live(console) if console.is_terminal else Lines()


def describe(measurement: Measurement, arm: str) -> str:
    """A measurement in one line of less than 60 columns."""
    plan = measurement.plan
    shown = arm.removeprefix("baseline: ") if len(arm) > 24 else arm
    what = f"{shown[:24]:<24} {plan.trainable_params:>9,} lr {plan.learning_rate:.1e}"
    if measurement.error is not None:
        return f"{what}  failed: {measurement.error}"
    return f"{what}  loss {measurement.loss:.4f}"


def clock(seconds: float) -> str:
    """Minutes and seconds.

    Example:
        >>> clock(125)
        '2:05'
    """
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
