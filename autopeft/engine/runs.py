"""Runs: measures each plan at each fidelity once, keeps the measurements, and accounts for time and cost."""

from __future__ import annotations

import logging
import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field, replace
from typing import Protocol

from autopeft.engine.problem import Lengths
from autopeft.errors import TrainingError
from autopeft.executors import Executor
from autopeft.types import Arm, Fidelity, Measurement, Plan, Status

_MOST_FAILED = 6  # measurements in a row that break off; chosen by hand
_N_LATEST = 4  # runs whose speed is that of the machine now; chosen by hand
_SLICE_SECONDS = 0.5  # of a wait, after which Ctrl-C is noticed; chosen by hand

Key = tuple[Plan, Fidelity]

log = logging.getLogger(__name__)


class Progress(Protocol):
    """A display of the search; all calls come from the thread that searches."""

    def phase(self, name: str, n_measurements: int, *, seconds_left: float | None = None) -> None:
        """A phase of `n_measurements` begins, such as `short runs`, `full runs` or `test`."""

    def measured(self, measurement: Measurement, *, arm: str, seconds_left: float | None) -> None:
        """A measurement has ended.

        `arm` is the plan's arm as text. `seconds_left` is an estimate for the rest of the search; None before
        a run was timed, and where the deadline will shorten the rest.
        """


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of time in seconds and of cost in R; they shorten a search, never a full run."""

    seconds: float = math.inf
    cost: float = math.inf


@dataclass(kw_only=True)
class Runs:
    """Measures plans through an executor, each plan and fidelity once.

    Attributes:
        measure_one: Trains and evaluates one plan; runs in a worker.
        lengths: Steps of a full run, and sizes of the splits.
        earlier: Measurements of an earlier, stopped run; they are not repeated.
        record: Stores a new measurement; called before the search goes on.
        interrupt: Called before each new measurement; what it raises stops the search.
        clock: Seconds since the run began.
        measured: Every measurement of this run, in the order of the requests, whoever finished first.
        arms: Plan -> the arm under which it was first proposed.
        expected: Fidelity -> how many measurements are still to come, from which the time left is estimated.
        later: Those of them that are for smaller budgets, whose phases come last.
    """

    executor: Executor
    measure_one: Callable[[Plan, Fidelity], Measurement]
    progress: Progress
    lengths: Lengths
    earlier: Mapping[Key, Measurement] = field(default_factory=dict)
    record: Callable[[Measurement], None] = lambda measurement: None
    interrupt: Callable[[], None] = lambda: None
    clock: Callable[[], float] = lambda: 0.0
    limits: Limits = Limits()
    measured: dict[Key, Measurement] = field(default_factory=dict)
    arms: dict[Plan, Arm] = field(default_factory=dict)
    expected: Counter[Fidelity] = field(default_factory=Counter)
    later: Counter[Fidelity] = field(default_factory=Counter)

    def begin(self, phase: str, fidelities: Sequence[Fidelity]) -> None:
        """Show a phase, and set how many runs of its fidelities are still to come."""
        for fidelity, n_runs in Counter(fidelities).items():
            self.expected[fidelity] = n_runs + self.later[fidelity]
        self.progress.phase(phase, len(fidelities), seconds_left=self._seconds_left())

    def measure_all(self, keys: Iterable[Key]) -> list[Measurement]:
        """Measure plans on all workers, and return their measurements in the order of `keys`.

        A plan and fidelity that this or the earlier run has measured is not run again. Raises TrainingError
        after 6 failures in a row that are the machine's, not the plan's.
        """
        requested = list(keys)
        waiting = deque(key for key in dict.fromkeys(requested) if key not in self.measured)
        pending: dict[Key, Future[Measurement]] = {}
        recorded: dict[Key, Measurement] = {}

        def take_finished() -> None:
            for key in [key for key, future in pending.items() if future.done()]:
                recorded[key] = pending.pop(key).result()
                self.record(recorded[key])
            while waiting and (measurement := recorded.get(waiting[0]) or self.earlier.get(waiting[0])):
                self._take(waiting.popleft(), measurement)

        for key in tuple(waiting):
            if key not in self.earlier:
                self.interrupt()
                pending[key] = self.executor.submit(self.measure_one, *key)
            take_finished()  # an executor that runs at submit has finished: a signal may come before the next
        while waiting:  # in slices, since Windows notices Ctrl-C only between them
            wait(pending.values(), timeout=_SLICE_SECONDS, return_when=FIRST_COMPLETED)
            take_finished()
        return [self.measured[key] for key in requested]

    def _take(self, key: Key, measurement: Measurement) -> None:
        """Keep and show a measurement; raise TrainingError if it is the last of too many failures."""
        self.measured[key] = measurement
        latest = list(self.measured.values())[-_MOST_FAILED:]
        if len(latest) == _MOST_FAILED and all(m.status.is_of_machine for m in latest):
            raise TrainingError(
                f"The last {_MOST_FAILED} runs failed: {measurement.reason}. What was "
                "measured before is kept; mend the cause and run it again, a search with --resume."
            )
        plan, fidelity = key
        self.expected[fidelity] = max(0, self.expected[fidelity] - 1)
        seconds = self._seconds_left()
        short_runs = (n_runs for fidelity, n_runs in self.expected.items() if fidelity.split == "search")
        if seconds is not None and any(short_runs) and self.clock() + seconds > self.limits.seconds:
            seconds = None  # the deadline will shorten the rest
        self.progress.measured(measurement, arm=str(self.arms.get(plan, "")), seconds_left=seconds)

    def _seconds_left(self) -> float | None:
        times: list[tuple[str, float]] = []
        for at, n_runs in self.expected.items():
            short = self.lengths.short(seed=at.seed)
            is_begun = self.expected[short] > self.later[short] or bool(self.at(short))
            n_done = self.lengths.kept_steps if is_begun and at.split == "confirm" else 0
            seconds = self.seconds(replace(at, train_steps=at.train_steps - n_done))
            if seconds is None:
                return None
            times += [(at.split, seconds)] * n_runs
        return side_by_side(times, self.executor.n_workers)

    def seconds(self, fidelity: Fidelity) -> float | None:
        """Estimate the seconds of a run from the trained runs so far; None if there is none."""
        runs = [m for m in self.measured.values() if m.status is Status.COMPLETE and m.plan.adapters]
        trained = [m for m in runs if m.trained_steps] or [
            m for m in self.measured.values() if m.trained_steps
        ]
        if not trained:
            return None
        # Short runs of a generating task make no texts, and tell nothing of the pace of those that do.
        of_split = [m for m in runs if m.fidelity.split == fidelity.split] or trained
        step = _pace([m.train_seconds / m.trained_steps for m in trained])
        example = _pace([m.eval_seconds / m.fidelity.eval_examples for m in of_split])
        steps = 0 if fidelity.split == "test" else fidelity.train_steps
        overhead = _pace([m.overhead_seconds for m in trained])
        return steps * step + fidelity.eval_examples * example + overhead

    def has_room(self, fidelities: Sequence[Fidelity], plans: Sequence[Plan] = ()) -> bool:
        """Whether some runs fit into the time and cost left; before a timed run, the cost decides.

        Runs of `plans` that an earlier process finished take no time again. Without a training among the
        others, the deadline does not count.
        """
        full_run = self.seconds(self.lengths.full(seed=0))
        if full_run is None:
            return math.fsum(map(self.lengths.cost, fidelities)) <= self.limits.cost
        finished = Counter(fidelity for plan, fidelity in self.earlier if plan in plans)
        new = list((Counter(fidelities) - finished).elements())
        seconds = math.fsum(self.seconds(fidelity) or 0.0 for fidelity in fidelities)
        times = [(fidelity.split, self.seconds(fidelity) or 0.0) for fidelity in new]
        has_time = self.clock() + side_by_side(times, self.executor.n_workers) <= self.limits.seconds
        is_trained = all(fidelity.split == "test" for fidelity in new)
        spent = math.fsum(m.total_seconds for m in self.measured.values())
        return (has_time or is_trained) and spent + seconds <= self.limits.cost * full_run

    def at(self, fidelity: Fidelity) -> dict[Plan, Measurement]:
        """The measurements at one fidelity."""
        return {plan: m for (plan, measured_at), m in self.measured.items() if measured_at == fidelity}


def side_by_side(times: Iterable[tuple[str, float]], n_workers: int) -> float:
    """Seconds of runs on several workers, one split after the other; none is shorter than its longest run."""
    of_splits: dict[str, list[float]] = {}
    for split, seconds in times:
        of_splits.setdefault(split, []).append(seconds)
    return math.fsum(max(math.fsum(each) / n_workers, *each) for each in of_splits.values())


def _pace(values: Sequence[float]) -> float:
    """The larger of two means, of all values and of the latest four: a shared machine may slow down."""
    return max(math.fsum(part) / len(part) for part in (values, values[-_N_LATEST:]))


def broken_off(run: str, measurement: Measurement) -> TrainingError:
    """Make the error for a failed run that the search cannot do without."""
    return TrainingError(
        f"{run} of plan {measurement.plan.digest} failed: {measurement.reason}. "
        "What was measured is kept; mend the cause and run it again, a search with --resume."
    )
