"""Experiment trackers beside a search: they see each measurement and the answer, and cannot stop it."""

from __future__ import annotations

import contextlib
import logging
import math
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from autopeft import report
from autopeft.engine import Progress
from autopeft.errors import reason_of
from autopeft.extension import TrackedRun, Tracker, Values, discover
from autopeft.records import Measurement, RunSpec, SearchResult, to_json

# The keys of result.json that trackers get; the others hold plans and long lists.
_LOGGED = ("best", "smallest", "baseline", "head", "verdict", "test", "cost")

log = logging.getLogger(__name__)


def check_trackers(spec: RunSpec) -> None:
    """Raise UnknownNameError for a tracker that does not exist, SpecError for one without its client."""
    for name in spec.output.report_to:
        _tracker(name).require()


@contextlib.contextmanager
def tracking(
    spec: RunSpec,
    folder: Path,
    progress: Progress,
    *,
    rung_steps: tuple[int, ...],
    interrupt: Callable[[], None] = lambda: None,
) -> Iterator[Tracking]:
    """A context with a display that logs to the trackers of a search too, and ends their runs.

    Args:
        spec: Names the trackers.
        folder: Of the run.
        progress: The display to pass everything on to.
        rung_steps: Training steps of each rung.
        interrupt: Raises where a signal has come, which ends a tracker by SystemExit as its own faults may.
    """
    trackers = [_tracker(name) for name in spec.output.report_to]
    tracked = Tracking(trackers, spec, folder, progress, rung_steps, interrupt)
    try:
        yield tracked
    finally:
        tracked.close()


class Tracking:
    """A display of the search that logs to trackers too; a tracker that fails is left out after a warning."""

    def __init__(
        self,
        trackers: list[Tracker],
        spec: RunSpec,
        folder: Path,
        progress: Progress,
        rung_steps: tuple[int, ...],
        interrupt: Callable[[], None] = lambda: None,
    ) -> None:
        """Nothing is logged before the first measurement, so that a refused search leaves no trace."""
        self._unopened = trackers
        self._spec, self._folder, self._progress = spec, folder, progress
        self._rung_steps, self._interrupt = rung_steps, interrupt
        self._runs: dict[str, TrackedRun] = {}  # by the name of the tracker
        self._n_measured = 0
        self._outcome: Values | None = None

    def phase(self, name: str, n_measurements: int) -> None:
        """Pass a phase on to the display."""
        self._progress.phase(name, n_measurements)

    def measured(
        self, measurement: Measurement, *, arm: str, is_baseline: bool, seconds_left: float | None
    ) -> None:
        """Pass a measurement on to the display and to the trackers."""
        self._progress.measured(measurement, arm=arm, is_baseline=is_baseline, seconds_left=seconds_left)
        self._open()
        if self._runs:
            values = measurement_values(measurement, arm=arm, rung_steps=self._rung_steps)
            number = self._n_measured
            for name, run in list(self._runs.items()):
                self._guarded(name, partial(run.measured, values, number=number))
        self._n_measured += 1

    def finish(self, result: SearchResult) -> None:
        """Keep the answer of the search, which `close` logs."""
        self._outcome = outcome_values(report.result_json(result, "complete"))

    def close(self) -> None:
        """Log the answer, if there is one, and end the runs of the trackers."""
        for name, run in list(self._runs.items()):
            self._guarded(name, partial(run.close, self._outcome))
        self._runs.clear()

    def _open(self) -> None:
        """Start a run in each tracker, once."""
        trackers, self._unopened = self._unopened, []
        if not trackers:
            return
        settings = flat_values(to_json(self._spec))
        for tracker in trackers:
            self._guarded(tracker.name, partial(self._start, tracker, settings))

    def _start(self, tracker: Tracker, settings: Values) -> None:
        run = tracker.open(self._folder, settings)
        lacking = [name for name in ("measured", "close") if not callable(getattr(run, name, None))]
        if lacking:
            raise TypeError(f"open gave {type(run).__name__}, which has no {' and no '.join(lacking)}")
        self._runs[tracker.name] = run

    def _guarded(self, name: str, act: Callable[[], None]) -> None:
        """Let a tracker act; one that raises is left out from then on. What it prints goes to stderr."""
        try:
            with contextlib.redirect_stdout(sys.stderr):
                act()
        except Exception as error:  # a client may raise anything, and its search must go on
            self._leave_out(name, error)
        except SystemExit as error:
            self._interrupt()
            self._leave_out(name, error)

    def _leave_out(self, name: str, error: BaseException) -> None:
        self._runs.pop(name, None)
        log.warning(
            "The tracker %s failed (%s: %s); the search goes on without it.",
            name,
            type(error).__name__,
            reason_of(error),
        )


def measurement_values(measurement: Measurement, *, arm: str, rung_steps: tuple[int, ...]) -> Values:
    """What a tracker logs of a measurement; see `TrackedRun.measured`."""
    plan, fidelity = measurement.plan, measurement.fidelity
    is_rung = fidelity.split == "search" and fidelity.train_steps in rung_steps
    rung = {"rung": rung_steps.index(fidelity.train_steps)} if is_rung else {}
    numbers = {"loss": measurement.loss, "metric": measurement.metric}
    return {
        "stage": f"rung_{rung['rung']}" if rung else fidelity.split,
        "arm": arm,
        "plan_id": plan.digest,
        "seed": fidelity.seed,
        "status": measurement.status.value,
        "trainable_params": plan.trainable_params,
        "learning_rate": plan.learning_rate,
        "train_steps": fidelity.train_steps,
        "train_seconds": measurement.train_seconds,
        **rung,
        **{name: value for name, value in numbers.items() if value is not None and math.isfinite(value)},
    }


def outcome_values(answer: dict[str, Any]) -> Values:
    """The numbers and words of a result.json that sum up a search, by dotted name."""
    return flat_values({name: answer[name] for name in _LOGGED})


def flat_values(content: dict[str, Any]) -> dict[str, bool | int | float | str]:
    """Nested values by dotted name; lists of words are joined, other lists and None are left out.

    Example:
        >>> flat_values({"search": {"trials": 4, "methods": ["lora", "ia3"], "patience": None}})
        {'search.trials': 4, 'search.methods': 'lora, ia3'}
    """
    flat: dict[str, bool | int | float | str] = {}
    for name, value in content.items():
        if isinstance(value, dict):
            flat |= {f"{name}.{inner}": found for inner, found in flat_values(value).items()}
        elif isinstance(value, list | tuple) and value and all(isinstance(word, str) for word in value):
            flat[name] = ", ".join(value)
        elif isinstance(value, bool | int | float | str):
            flat[name] = value
    return flat


def _tracker(name: str) -> Tracker:
    tracker: Tracker = discover("autopeft.trackers")[name]
    return tracker
