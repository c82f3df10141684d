"""Progress of a search in Python: a bar per phase where somebody looks, and messages of the log."""

from __future__ import annotations

import logging
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from tqdm.auto import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from autopeft.records import Measurement

log = logging.getLogger(__name__)


def is_watched() -> bool:
    """Whether a notebook or a terminal shows what is written to stderr."""
    isatty = getattr(sys.stderr, "isatty", None)  # a program without a console has None, or its own stream
    return "ipykernel" in sys.modules or bool(isatty and isatty())


def above_bars(*, shows: bool) -> AbstractContextManager[None]:
    """A context in which messages of the log go above the bars, which they would cut otherwise."""
    return logging_redirect_tqdm(tqdm_class=tqdm) if shows else nullcontext()


class BarProgress:
    """A bar for each phase with measurements, with the lowest loss of the phase; phases are logged too."""

    def __init__(self, *, shows: bool) -> None:
        """With `shows` there are bars; without them only messages at the level INFO."""
        self._shows = shows
        self._bar: Any = None
        self._best: float | None = None

    def phase(self, name: str, n_measurements: int) -> None:
        """End the bar of the phase before, and begin one of `n_measurements`."""
        log.info("%s: %d measurements", name, n_measurements)
        self.close()
        self._best = None
        if self._shows and n_measurements:
            self._bar = tqdm(total=n_measurements, desc=name, unit="run", leave=True)

    def measured(
        self, measurement: Measurement, *, arm: str, is_baseline: bool, seconds_left: float | None
    ) -> None:
        """Count a measurement."""
        loss = measurement.loss
        log.info(
            "%s, %d parameters: %s",
            arm,
            measurement.plan.trainable_params,
            measurement.error if loss is None else f"loss {loss:.4f}",
        )
        if loss is not None:
            self._best = loss if self._best is None else min(self._best, loss)
        if self._bar is not None:
            best = "" if self._best is None else f"best loss {self._best:.4f}, "
            left = "" if seconds_left is None else f", {seconds_left:.0f} s left"
            self._bar.set_postfix_str(f"{best}{arm}{left}", refresh=False)
            self._bar.total = max(self._bar.total, self._bar.n + 1)  # a phase may measure more than announced
            self._bar.update(1)

    def close(self) -> None:
        """End the bar with what was done, which may be less than announced; take an empty one away."""
        if self._bar is not None:
            self._bar.total, self._bar.leave = self._bar.n, self._bar.n > 0
            self._bar.close()
            self._bar = None
