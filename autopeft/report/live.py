"""The live page: `report.html` and `trials.csv` of a run that is unfinished or was stopped."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime

from autopeft import report
from autopeft.engine import Driver
from autopeft.errors import RunDirError, TrainingError, WorkerLostError, reason_of
from autopeft.report.curves import LossCurve, read_points
from autopeft.report.part_words import part_words
from autopeft.report.plan_names import name_of
from autopeft.report.progress import Lines
from autopeft.store import RunDir
from autopeft.types import Measurement, SearchSoFar, resume_command

_PAUSE_SECONDS = 10.0  # between two writings of the page, which take a tenth of a second; heuristic

log = logging.getLogger(__name__)


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
        is_signal = isinstance(error, KeyboardInterrupt | SystemExit)
        how = "stopped" if is_signal else f"failed: {reason_of(error)}"
        command = resume_command(so_far.spec, run.path)
        with suppress(RunDirError):  # the disk may be full
            page.write(f"{how}; nothing is judged. Resume with: {command}")
        if not (is_signal or isinstance(error, TrainingError | WorkerLostError)):  # these say what to do
            log.warning("What was measured is kept; resume with: %s", command)
        raise
