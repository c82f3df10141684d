"""The progress of a search on stderr: a live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich import progress
from rich.console import Console

if TYPE_CHECKING:
    from autopeft.records import Measurement


class Silent:
    """Shows nothing."""

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
        """Start a phase: its count and its best loss begin again."""
        self.name, self.total, self.done, self.best = name, n_measurements, 0, None
        if not n_measurements:
            print(name, file=sys.stderr, flush=True)

    def measured(self, measurement: Measurement, *, arm: str, seconds_left: float | None) -> None:
        """Print one line about a measurement."""
        self.done += 1
        self.best = _lower(self.best, measurement.loss)
        best = f"  best {self.best:.4f}" if self.best is not None else ""
        left = f"  {clock(seconds_left)} left" if seconds_left is not None else ""
        count = f"{self.name} {self.done}/{self.total}"
        print(f"{count:<18} {describe(measurement, arm)}{best}{left}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Nothing."""


class Live:
    """A bar per phase with the best loss so far, below a line per measurement."""

    def __init__(self, console: Console) -> None:
        self._bars = progress.Progress(
            progress.SpinnerColumn(),
            progress.TextColumn("{task.description:<12}"),
            progress.BarColumn(bar_width=20),
            progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(),
            progress.TextColumn("{task.fields[note]}"),
            console=console,
        )

    def phase(self, name: str, n_measurements: int) -> None:
        """Start the bar of a phase; the first phase opens the display."""
        self._bars.start()
        self._best: float | None = None
        self._task = self._bars.add_task(name, total=n_measurements or None, note="")

    def measured(self, measurement: Measurement, *, arm: str, seconds_left: float | None) -> None:
        """Advance the bar, and print one line about a measurement."""
        self._best = _lower(self._best, measurement.loss)
        best = f"best {self._best:.4f}" if self._best is not None else "none yet"
        left = f", {clock(seconds_left)} left" if seconds_left is not None else ""
        self._bars.update(self._task, advance=1, note=f"{best}{left}")
        # No markup: an error's text may hold brackets.
        self._bars.console.print(describe(measurement, arm), style="dim", markup=False, highlight=False)

    def close(self) -> None:
        """Stop the display; the bars stay on the screen."""
        if self._bars.live.is_started:
            self._bars.stop()


def progress_display(*, quiet: bool) -> Silent | Lines | Live:
    """The display for stderr: live on a terminal, lines in a file or pipe, none if quiet."""
    if quiet:
        return Silent()
    console = Console(stderr=True)
    return Live(console) if console.is_terminal else Lines()


def describe(measurement: Measurement, arm: str) -> str:
    """A measurement in one line of less than 60 columns."""
    plan = measurement.plan
    label = arm.rpartition(": ")[2] if len(arm) > 24 else arm  # without its kind where both do not fit
    run = f"{label[:24]:<24} {plan.trainable_params:>9,} lr {plan.learning_rate:.1e}"
    outcome = f"loss {measurement.loss:.4f}" if measurement.error is None else f"failed: {measurement.error}"
    return f"{run}  {outcome}"


def _lower(best: float | None, loss: float | None) -> float | None:
    return min((value for value in (best, loss) if value is not None), default=None)


def clock(seconds: float) -> str:
    """Minutes and seconds.

    Example:
        >>> clock(125)
        '2:05'
    """
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
