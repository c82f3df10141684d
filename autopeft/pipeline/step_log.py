"""The step that a training run has reached, in the log now and then and at the signal that ends the run."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator

from autopeft import train
from autopeft.report.words import duration

_SECONDS = 10.0  # between two lines; chosen by hand
_NOTHING = "nothing was kept"

log = logging.getLogger(__name__)


@contextlib.contextmanager
def logged_steps(
    clock: Callable[[], float] = time.monotonic, *, kept: Callable[[], str] = lambda: _NOTHING
) -> Iterator[None]:
    """A context in which training logs its step, its loss and the time left, every ten seconds or so.

    A signal that ends the context is logged with the last step and with what `kept` says of what is left.
    """
    steps = _Steps(clock)
    try:
        with train.watched(steps.add):
            yield
    except (KeyboardInterrupt, SystemExit):
        where = f"at step {steps.step:,} of {steps.n_steps:,}" if steps.n_steps else "before the first step"
        log.warning("Stopped %s; %s.", where, kept())
        raise


class _Steps:
    """The last step that was seen, and what is logged of it."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.step, self.n_steps = 0, 0
        self._clock = clock
        self._first = (0, 0.0)  # step and time of the first look, from which on time is measured
        self._last_logged = 0.0

    def add(self, step: int, n_steps: int, loss: Callable[[], float]) -> None:
        """Note a step, and log it if the last line is some seconds ago."""
        now = self._clock()
        if not self.n_steps or step <= self.step:  # training began, maybe anew in less memory
            self._first, self._last_logged = (step, now), now
        self.step, self.n_steps = step, n_steps
        if now - self._last_logged < _SECONDS:
            return
        self._last_logged = now
        first_step, started = self._first
        left = (now - started) / (step - first_step) * (n_steps - step)
        log.info("step %s of %s: loss %.4f, %s left", f"{step:,}", f"{n_steps:,}", loss(), duration(left))
