"""Drives a search: measures what it asks for on an executor, and accounts for time and cost."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Protocol

from autopeft.engine.problem import Batch, Key, Request, SearchProblem, Steps
from autopeft.errors import TrainingError
from autopeft.executors import Executor
from autopeft.types import Fidelity, Measurement, Outcome, Plan, Proposal, Status

_MOST_FAILED = 6  # measurements in a row that break off; heuristic
_N_LATEST = 4  # runs whose speed is that of the machine now; heuristic
_SLICE_SECONDS = 0.5  # of a wait, after which Ctrl-C is noticed; heuristic

log = logging.getLogger(__name__)


class Progress(Protocol):
    """A display of the search; `seconds_left` estimates the rest of it, and is None if that is unknown."""

    def phase(self, name: str, n_measurements: int, *, seconds_left: float | None = None) -> None:
        """A phase of `n_measurements` begins, such as `short runs`, `full runs` or `test`."""

    def measured(self, measurement: Measurement, *, arm: str, seconds_left: float | None) -> None:
        """A measurement has ended; `arm` is the plan's arm as text."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of time in seconds and of cost in R; they shorten a search, never a full run."""

    seconds: float = math.inf
    cost: float = math.inf


def drive(steps: Steps[Outcome], measure: Callable[[Batch], list[Measurement] | None]) -> Outcome | Batch:
    """Send a search what it asks for, and return its outcome, or the first batch that has no answer."""
    measured: dict[Key, Measurement] = {}
    try:
        batch = next(steps)
        while (runs := measure(batch)) is not None:
            measured |= {(run.plan, run.fidelity): run for run in runs}
            batch = steps.send(runs)
    except StopIteration as end:
        outcome: Outcome = end.value
        return replace(outcome, measurements=tuple(measured.values()))
    return batch


@dataclass(kw_only=True)
class Driver:
    """Measures plans through an executor, each plan and fidelity once, within limits.

    Attributes:
        measure_one: Trains and evaluates one plan; runs in a worker.
        earlier: Measurements of an earlier, stopped run; they are not repeated.
        record: Stores a new measurement; called before the search continues.
        interrupt: Called before each new measurement; what it raises stops the search.
        clock: Seconds since the run began.
        measured: Every measurement of this run, in the order of the requests, whoever finished first.
        proposals: The trials of the study.
    """

    problem: SearchProblem
    executor: Executor
    measure_one: Callable[[Plan, Fidelity], Measurement]
    progress: Progress
    earlier: Mapping[Key, Measurement] = field(default_factory=dict)
    record: Callable[[Measurement], None] = lambda measurement: None
    interrupt: Callable[[], None] = lambda: None
    clock: Callable[[], float] = lambda: 0.0
    limits: Limits = Limits()
    measured: dict[Key, Measurement] = field(default_factory=dict)
    proposals: list[Proposal] = field(default_factory=list)
    _phase: str = ""
    _n_begun: int = 0  # runs of the phase

    @property
    def n_at_once(self) -> int:
        """Runs that go side by side."""
        return self.executor.n_workers

    def run(self, steps: Steps[Outcome]) -> Outcome:
        """Run a search to its end.

        Raises:
            TrainingError: The search can have no outcome, or 6 runs in a row failed through the machine.
        """
        outcome = drive(steps, self._measure)
        assert isinstance(outcome, Outcome), "every batch is measured"
        return outcome

    def _measure(self, batch: Batch) -> list[Measurement]:
        """Measure a batch on all workers, and return the measurements in the order of the requests."""
        if batch.warning:
            log.warning("%s", batch.warning)
            return []
        self.proposals += batch.proposals
        is_new = batch.phase != self._phase
        self._phase, self._n_begun = batch.phase, len(batch.requests) + (0 if is_new else self._n_begun)
        ahead = self._ahead(batch)
        if is_new:
            seconds = self._seconds_left([*(each.fidelity for each in batch.requests), *ahead])
            self.progress.phase(batch.phase, batch.n_runs, seconds_left=seconds)
        waiting = deque({each.key: each for each in batch.requests if each.key not in self.measured}.values())
        pending: dict[Key, Future[Measurement]] = {}
        recorded: dict[Key, Measurement] = {}

        def take_finished() -> None:
            for key in [key for key, future in pending.items() if future.done()]:
                recorded[key] = pending.pop(key).result()
                self.record(recorded[key])
            while waiting and (run := recorded.get(waiting[0].key) or self.earlier.get(waiting[0].key)):
                request = waiting.popleft()
                self._take(request, run, [*(each.fidelity for each in waiting), *ahead])

        for request in tuple(waiting):
            if request.key not in self.earlier:
                self.interrupt()
                pending[request.key] = self.executor.submit(self.measure_one, *request.key)
            take_finished()  # an executor that runs at submit has finished: a signal may come before the next
        while waiting:  # in slices, since Windows notices Ctrl-C only between them
            wait(pending.values(), timeout=_SLICE_SECONDS, return_when=FIRST_COMPLETED)
            take_finished()
        return [self.measured[request.key] for request in batch.requests]

    def _ahead(self, batch: Batch) -> list[Fidelity]:
        """List the runs that are planned after a batch: the rest of its phase, and the phases after it."""
        names = list(self.problem.planned)
        phase, *later = names[names.index(batch.phase) :]
        rest = self.problem.planned[phase][self._n_begun : batch.n_runs]
        return [*rest, *chain.from_iterable(self.problem.planned[name] for name in later)]

    def _take(self, request: Request, measurement: Measurement, ahead: Sequence[Fidelity]) -> None:
        """Keep and show a measurement; raise TrainingError if it is the last of too many failures."""
        self.measured[request.key] = measurement
        latest = list(self.measured.values())[-_MOST_FAILED:]
        if len(latest) == _MOST_FAILED and all(m.status.is_of_machine for m in latest):
            raise TrainingError(
                f"The last {_MOST_FAILED} runs failed: {measurement.reason}. What was "
                "measured before is kept; fix the cause and run it again, a search with --resume."
            )
        seconds = self._seconds_left(ahead)
        is_shortened = any(fidelity.split == "search" for fidelity in ahead)
        if seconds is not None and is_shortened and self.clock() + seconds > self.limits.seconds:
            seconds = None  # the deadline will shorten the rest
        self.progress.measured(measurement, arm=str(request.arm), seconds_left=seconds)

    def _seconds_left(self, ahead: Sequence[Fidelity]) -> float | None:
        """Estimate the seconds of runs that are still to come; None before a run was timed."""
        lengths, known = self.problem.lengths, {*ahead, *(fidelity for _, fidelity in self.measured)}
        times: list[tuple[str, float]] = []
        for at in ahead:
            continues = at.split == "confirm" and lengths.short(seed=at.seed) in known
            seconds = self.seconds(replace(at, train_steps=at.train_steps - continues * lengths.kept_steps))
            if seconds is None:
                return None
            times.append((at.split, seconds))
        return side_by_side(times, self.n_at_once)

    def seconds(self, fidelity: Fidelity) -> float | None:
        """Estimate the seconds of a run from the trained runs so far; None if there is none."""
        runs = [m for m in self.measured.values() if m.status is Status.COMPLETE and m.plan.adapters]
        trained = [m for m in runs if m.trained_steps] or [
            m for m in self.measured.values() if m.trained_steps
        ]
        if not trained:
            return None
        # Short runs of a generating task make no texts, and say nothing about the pace of those that do.
        of_split = [m for m in runs if m.fidelity.split == fidelity.split] or trained
        step = _pace([m.train_seconds / m.trained_steps for m in trained])
        example = _pace([m.eval_seconds / m.fidelity.eval_examples for m in of_split])
        steps = 0 if fidelity.split == "test" else fidelity.train_steps
        return steps * step + fidelity.eval_examples * example + _pace([m.overhead_seconds for m in trained])

    def covers(self, requests: Sequence[Request], needed: Sequence[Fidelity] = ()) -> bool:
        """Whether the limits cover some runs and what is `needed` after them; see `Allowance`.

        Before a run was timed, the cost decides. The deadline does not count where nothing is left to train.
        """
        new = [each.fidelity for each in requests if each.key not in {**self.earlier, **self.measured}]
        if requests and not new:
            return True
        fidelities = [each.fidelity for each in requests if each.key not in self.measured] + [*needed]
        lengths = self.problem.lengths
        full_run = self.seconds(lengths.full(seed=0))
        if full_run is None:
            return math.fsum(map(lengths.cost, fidelities)) <= self.limits.cost
        times = [(fidelity.split, self.seconds(fidelity) or 0.0) for fidelity in [*new, *needed]]
        has_time = self.clock() + side_by_side(times, self.n_at_once) <= self.limits.seconds
        spent = math.fsum(m.total_seconds for m in self.measured.values())
        spent += math.fsum(self.seconds(fidelity) or 0.0 for fidelity in fidelities)
        return has_time and spent <= self.limits.cost * full_run


def side_by_side(times: Iterable[tuple[str, float]], n_workers: int) -> float:
    """Seconds of runs on several workers, one split after the other; none is shorter than its longest run."""
    of_splits: dict[str, list[float]] = {}
    for split, seconds in times:
        of_splits.setdefault(split, []).append(seconds)
    return math.fsum(max(math.fsum(each) / n_workers, *each) for each in of_splits.values())


def _pace(values: Sequence[float]) -> float:
    """The larger of two means, of all values and of the latest four: a shared machine may slow down."""
    return max(math.fsum(part) / len(part) for part in (values, values[-_N_LATEST:]))
