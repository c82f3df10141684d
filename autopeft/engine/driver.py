"""Drives a search: measures what it asks for on an executor, and accounts for time and cost."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Protocol, cast

from autopeft.engine.problem import Batch, Key, Request, SearchProblem, Steps
from autopeft.executors import Executor
from autopeft.types import Fidelity, Measurement, Outcome, Plan, Proposal, Status

_SLICE_SECONDS = 0.5  # of a wait, after which Ctrl-C is noticed; heuristic

log = logging.getLogger(__name__)


class Progress(Protocol):
    """A display of the search; `seconds_left` estimates the rest of it, and is None if that is unknown."""

    def phase(self, name: str, n_measurements: int, *, seconds_left: float | None = None) -> None:
        """A phase begins."""

    def measured(self, measurement: Measurement, *, arm: str, seconds_left: float | None) -> None:
        """A measurement has ended."""

    def waiting(self) -> None:
        """Runs are under way in other processes; called twice a second."""


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
    """Measures plans through an executor, each plan and fidelity once, within limits."""

    problem: SearchProblem
    executor: Executor
    measure_one: Callable[[Plan, Fidelity], Measurement]  # trains and evaluates a plan; runs in a worker
    progress: Progress
    earlier: Mapping[Key, Measurement] = field(default_factory=dict)  # of a stopped run, not repeated
    record: Callable[[Measurement], None] = lambda measurement: None  # stores it before the search continues
    clock: Callable[[], float] = lambda: 0.0  # seconds since the run began
    max_seconds: float = math.inf  # these limits shorten a search, never a full run
    max_cost: float = math.inf  # in R
    measured: dict[Key, Measurement] = field(default_factory=dict)  # in the order of the requests
    proposals: list[Proposal] = field(default_factory=list)  # the trials of the study
    requested: Sequence[Request] = ()  # the latest runs that the search asked for
    _phase: str = ""
    _n_begun: int = 0  # runs of the phase

    @property
    def n_at_once(self) -> int:
        """Runs that go side by side."""
        return self.executor.n_workers

    def run(self, steps: Steps[Outcome]) -> Outcome:
        """Run a search to its end."""
        return cast(Outcome, drive(steps, self._measure))

    def _measure(self, batch: Batch) -> list[Measurement]:
        """Measure a batch on all workers, and return the measurements in the order of the requests."""
        if batch.warning:
            log.warning("%s", batch.warning)
            return []
        self.proposals += batch.proposals
        self.requested = batch.requests
        ahead = self._begin(batch)
        waiting = deque({each.key: each for each in batch.requests if each.key not in self.measured}.values())
        pending: dict[Key, Future[Measurement]] = {}
        recorded: dict[Key, Measurement] = {}

        def take_finished() -> None:
            for key in [key for key, future in pending.items() if future.done()]:
                recorded[key] = pending.pop(key).result()
                self.record(recorded[key])
            while waiting and (run := recorded.get(waiting[0].key) or self.earlier.get(waiting[0].key)):
                request = waiting.popleft()
                self.measured[request.key] = run
                seconds = self._seconds_left([*(each.fidelity for each in waiting), *ahead])
                self.progress.measured(run, arm=str(request.arm), seconds_left=seconds)

        for request in tuple(waiting):
            if request.key not in self.earlier:
                pending[request.key] = self.executor.submit(self.measure_one, *request.key)
            take_finished()  # an executor that runs at submit has finished: a signal may come before the next
        while waiting:  # in slices, since Windows notices Ctrl-C only between them
            wait(pending.values(), timeout=_SLICE_SECONDS, return_when=FIRST_COMPLETED)
            self.progress.waiting()
            take_finished()
        return [self.measured[request.key] for request in batch.requests]

    def _begin(self, batch: Batch) -> list[Fidelity]:
        """Show a new phase, and list the runs that are planned after a batch."""
        is_new = batch.phase != self._phase
        self._phase, self._n_begun = batch.phase, len(batch.requests) + (0 if is_new else self._n_begun)
        planned, phases = self.problem.planned, list(self.problem.planned)
        ahead = planned[batch.phase][self._n_begun : batch.n_runs]
        for later in phases[phases.index(batch.phase) + 1 :]:
            ahead = ahead + planned[later]
        if is_new:
            seconds = self._seconds_left([*(each.fidelity for each in batch.requests), *ahead])
            self.progress.phase(batch.phase, batch.n_runs, seconds_left=seconds)
        return ahead

    def _seconds_left(self, ahead: Sequence[Fidelity]) -> float | None:
        """Estimate the seconds of planned runs; None before a run was timed, or if limits shorten them."""
        lengths, begun = self.problem.lengths, {*ahead, *(fidelity for _, fidelity in self.measured)}
        if self.estimate_seconds(self.problem.full) is None:
            return None
        times: list[tuple[str, float]] = []
        for at in ahead:
            continues_short_run = at.split == "confirm" and lengths.short(seed=at.seed) in begun
            new = replace(at, train_steps=at.train_steps - continues_short_run * lengths.kept_steps)
            times.append((at.split, self.estimate_seconds(new) or 0.0))
        in_all = seconds_side_by_side(times, self.n_at_once)
        is_late = any(at.split == "search" for at in ahead) and self.clock() + in_all > self.max_seconds
        return None if is_late else in_all

    def estimate_seconds(self, fidelity: Fidelity) -> float | None:
        """Estimate the seconds of a run from the trained runs so far; None if there is none."""
        runs = [m for m in self.measured.values() if m.status is Status.COMPLETE and m.plan.adapters]
        trained = [m for m in runs if m.trained_steps]
        trained = trained or [m for m in self.measured.values() if m.trained_steps]
        if not trained:
            return None
        # Short runs of a generating task make no texts, and say nothing about the pace of those that do.
        of_split = [m for m in runs if m.fidelity.split == fidelity.split] or trained
        step = fmean(m.train_seconds / m.trained_steps for m in trained)
        example = fmean(m.eval_seconds / m.fidelity.eval_examples for m in of_split)
        steps = 0 if fidelity.split == "test" else fidelity.train_steps
        return steps * step + fidelity.eval_examples * example + fmean(m.overhead_seconds for m in trained)

    def covers(self, requests: Sequence[Request], needed: Sequence[Fidelity] = ()) -> bool:
        """Whether the limits cover some runs and what is `needed` after them; see `Allowance`."""
        new = [each.fidelity for each in requests if each.key not in {**self.earlier, **self.measured}]
        if requests and not new:  # measured already
            return True
        fidelities = [each.fidelity for each in requests if each.key not in self.measured] + [*needed]
        full_run = self.estimate_seconds(self.problem.full)
        if full_run is None:
            return math.fsum(map(self.problem.lengths.cost, fidelities)) <= self.max_cost
        times = [(fidelity.split, self.estimate_seconds(fidelity) or 0.0) for fidelity in [*new, *needed]]
        has_time = self.clock() + seconds_side_by_side(times, self.n_at_once) <= self.max_seconds
        spent = math.fsum(m.total_seconds for m in self.measured.values())
        spent += math.fsum(self.estimate_seconds(fidelity) or 0.0 for fidelity in fidelities)
        return has_time and spent <= self.max_cost * full_run


def seconds_side_by_side(times: Iterable[tuple[str, float]], n_workers: int) -> float:
    """Seconds of runs on several workers, one split after the other; none is shorter than its longest run."""
    of_splits: dict[str, list[float]] = {}
    for split, seconds in times:
        of_splits.setdefault(split, []).append(seconds)
    return math.fsum(max(math.fsum(each) / n_workers, *each) for each in of_splits.values())
