"""The ledger: measures each plan at each fidelity once, keeps the measurements, and watches the time."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, Protocol

from autopeft.engine.problem import SearchProblem
from autopeft.engine.schedule import Schedule
from autopeft.errors import StoppedError, TrainingError
from autopeft.executors import Executor
from autopeft.records import Adapter, Arm, Fidelity, Measurement, Plan, Status

_RESERVE_FACTOR = 1.2  # on the estimate of what confirmation takes; chosen by hand
# For the report: the smaller of both, a share being of the time limit; chosen by hand.
_REPORT_RESERVE_SECONDS, _REPORT_RESERVE_SHARE = 15.0, 0.15
_N_LATEST = 4  # runs whose speed is that of the machine now; chosen by hand
_LATE_SHARE, _LATE_SECONDS = 0.1, 5.0  # of the time limit, and beside it
_LEAST_RUNS = 4  # of a verdict: two seeds of two plans
_MOST_FAILED = 6  # measurements in a row that break off; chosen by hand
_MOST_CONFIRM = 0.5  # of the time limit, which the least verdict at full length may take; chosen by hand
# Loss that stands for "bad" before any run has one: a guess among 150 classes has log(150) = 5.0.
_BAD_LOSS = 5.0
# Times the longest of those that have finished, and seconds at least, after which a run is long; by hand.
_TIMES, _LEAST_SECONDS = 3.0, 60.0
_SLICE_SECONDS = 0.5  # chosen by hand

TIME_IS_UP = (
    "The time left does not pay two confirmed seeds of two plans, so there is no verdict yet; "
    "continue with --resume and a larger --max-time."
)

log = logging.getLogger(__name__)

Measured = dict[Plan, Measurement]  # at one fidelity
Key = tuple[Plan, Fidelity]


@dataclass
class _Planned:
    """Measurements of one kind that are still to come."""

    fidelity: Fidelity
    n_left: int
    new_steps: int | None


class Progress(Protocol):
    """A display of the search; all calls come from the thread that searches."""

    def phase(self, name: str, n_measurements: int) -> None:
        """A phase begins: rung 1, rung 2, confirmation, test."""

    def measured(
        self, measurement: Measurement, *, arm: str, is_baseline: bool, seconds_left: float | None
    ) -> None:
        """A measurement is in.

        `arm` is the plan's arm as text, `is_baseline` whether the plan is a baseline at any rate.
        `seconds_left` estimates the rest of the run; None before it can.
        """


def wait_for_first(futures: Collection[Future[Any]], *, timeout: float | None = None) -> None:
    """Wait until one of some futures is done, or for so many seconds; signals are heard meanwhile.

    The wait is cut into slices, since on Windows Ctrl-C is heard between them alone.
    """
    end = None if timeout is None else time.monotonic() + timeout
    while futures:
        left = _SLICE_SECONDS if end is None else min(_SLICE_SECONDS, max(0.0, end - time.monotonic()))
        is_over = end is not None and time.monotonic() + left >= end
        if wait(futures, timeout=left, return_when=FIRST_COMPLETED).done or is_over:
            return


@dataclass(kw_only=True)
class Ledger:
    """Measures through an executor, keeps measurements in the order of the requests, and estimates time.

    `clock` gives the seconds since the run began; it is read where there is a time limit.

    Attributes:
        known: Measurements of an earlier, stopped run; they are not repeated.
        record: Stores a new measurement; called before the search goes on.
        release: Takes the plans that no later rung continues, so that their paused state can be deleted.
        interrupt: Called before each new measurement; what it raises stops the search.
        limit_seconds: Time that the run may take; None for no limit.
        wait_for_any: Waits until one of some measurements has finished, or for the seconds of `timeout`;
            another clock has another one.
        measured: Every measurement of this run, in order.
        arms: Plan -> the arm under which it was first proposed.
    """

    executor: Executor
    measure: Callable[[Plan, Fidelity], Measurement]
    progress: Progress
    known: Mapping[Key, Measurement] = field(default_factory=dict)
    record: Callable[[Measurement], None] = lambda measurement: None
    release: Callable[[Collection[Plan]], None] = lambda plans: None
    interrupt: Callable[[], None] = lambda: None
    clock: Callable[[], float] = lambda: 0.0
    limit_seconds: float | None = None
    wait_for_any: Callable[..., object] = wait_for_first
    measured: dict[Key, Measurement] = field(default_factory=dict)
    arms: dict[Plan, Arm] = field(default_factory=dict)
    _baselines: list[tuple[Adapter, ...]] = field(default_factory=list)  # a few, slow to hash
    _planned: dict[tuple[str, int], _Planned] = field(default_factory=dict)
    _cost_limit: tuple[Schedule, float] | None = None
    _seconds_per_step: list[float] = field(default_factory=list)
    _new: dict[Key, Measurement] = field(default_factory=dict)  # recorded, and not yet in `measured`
    _ahead: dict[Key, Future[Measurement]] = field(default_factory=dict)  # begun before they are requested
    _n_stored: Counter[Fidelity] = field(init=False)  # measurements in `known` that are not yet in `measured`
    _n_failed: int = 0  # measurements that broke off since the last that did not
    _overhead_seconds: list[float] = field(default_factory=list)
    # Evaluation, by whether it made the metric: one of generated text is left out at the lower rungs.
    _seconds_per_example: dict[bool, list[float]] = field(default_factory=lambda: {False: [], True: []})

    def __post_init__(self) -> None:
        self._n_stored = Counter(fidelity for _, fidelity in self.known)

    def measure_all(self, requests: Sequence[Key], *, ahead: Sequence[Key] = ()) -> list[Measurement]:
        """The measurements of some plans, in the order of the requests; only unknown ones are run.

        `ahead` are measurements that a later call will request: workers that the requests leave idle begin
        them. They enter `measured`, and the cost, when they are requested.
        """
        self._measure(list(dict.fromkeys(requests)), has_time=lambda key, n_running: True, ahead=ahead)
        return [self.measured[key] for key in requests]

    def measure_in_time(
        self, requests: Sequence[Key], *, reserve: float, new_steps: int | None = None, least: int = 0
    ) -> list[Measurement]:
        """As `measure_all`, but it ends before a measurement for which the time is too short.

        Args:
            requests: Plans at their fidelities, the most important first.
            reserve: Seconds to keep for what follows.
            new_steps: Steps that each has still to train, where a rung continues an earlier one.
            least: Measurements that are made whatever time is left.
        """
        keys = list(dict.fromkeys(requests))

        def has_time(key: Key, n_running: int) -> bool:
            seconds = self.estimate(key[1], new_steps=new_steps) * (1 + n_running // self.executor.n_workers)
            return keys.index(key) < least or self.has_time_for(seconds=seconds, reserve=reserve)

        self._measure(keys, has_time=has_time)
        return [self.measured[key] for key in takewhile(self.measured.__contains__, requests)]

    def _measure(
        self, requests: Sequence[Key], *, has_time: Callable[[Key, int], bool], ahead: Sequence[Key] = ()
    ) -> None:
        """Measure in the order of the requests, up to one for which there is no time."""
        keys = [key for key in requests if key not in self.measured]
        pending: dict[Key, Future[Measurement]] = {}
        n_taken = 0
        for place, key in enumerate(keys):
            if key not in self.known:
                if not has_time(key, sum(not future.done() for future in pending.values())):
                    keys = keys[:place]
                    break
                pending[key] = self._ahead.pop(key) if key in self._ahead else self._submit(key)
            # An executor that runs at submit has finished here. Its measurement must be on the disk before
            # the next one begins, since a signal may come then.
            self._record_finished(pending)
            for next_key in keys[n_taken:]:
                if next_key not in self.known and not (next_key in pending and pending[next_key].done()):
                    break
                self._take(next_key, pending)
                n_taken += 1
        self._begin(ahead, pending)
        for key in keys[n_taken:]:
            self._take(key, pending)

    def _submit(self, key: Key) -> Future[Measurement]:
        self.interrupt()
        return self.executor.submit(self.measure, *key)

    def _begin(self, ahead: Sequence[Key], pending: Mapping[Key, Future[Measurement]]) -> None:
        """Begin measurements that a later call requests, one for each idle worker."""
        if self.executor.n_workers == 1:  # an executor without workers would run them now
            return
        futures = (*pending.values(), *self._ahead.values())
        n_idle = self.executor.n_workers - sum(not future.done() for future in futures)
        begun = (self.measured, self.known, pending, self._ahead)
        waiting = [key for key in ahead if not any(key in keys for keys in begun)]
        for key in waiting[: max(0, n_idle)]:
            self._ahead[key] = self._submit(key)

    def _take(self, key: Key, pending: Mapping[Key, Future[Measurement]]) -> None:
        """Wait for a measurement, record it if it is new, and show it."""
        if key in pending:
            self._wait(key, pending)
        plan, fidelity = key
        measurement = self._new.pop(key) if key in pending else self.known[key]
        self._n_stored[fidelity] -= key not in pending
        self._n_failed = self._n_failed + 1 if measurement.status is Status.FAIL else 0
        if self._n_failed >= _MOST_FAILED:  # so many in a row that the machine is to blame
            raise TrainingError(
                f"The last {self._n_failed} runs failed: {measurement.reason}. What was "
                "measured before is kept; mend the cause and continue with --resume."
            )
        self.measured[key] = measurement
        planned = self._planned.get(_kind(fidelity))
        if planned is not None:
            planned.n_left = max(0, planned.n_left - 1)
        seconds = math.fsum(
            kind.n_left * self.estimate(kind.fidelity, new_steps=kind.new_steps)
            for kind in self._planned.values()
        )
        if self._cost_limit is not None:
            schedule, max_cost = self._cost_limit
            paid = max(0.0, max_cost - self.cost(schedule)) * self.estimate(schedule.full_rung(seed=0))
            seconds = min(seconds, paid)
        seconds = min(seconds / self.executor.n_workers, self._limit_left())
        seconds_left = max(0.0, seconds) if self._seconds_per_step else None
        self.progress.measured(
            measurement,
            arm=str(self.arms.get(plan, "")),
            is_baseline=self.is_baseline(plan),
            seconds_left=seconds_left,
        )

    def _wait(self, key: Key, pending: Mapping[Key, Future[Measurement]]) -> None:
        """Wait for a measurement, and record what finishes before it; say so where that is long."""
        while self.executor.n_workers > 1 and not pending[key].done():
            running = {other: future for other, future in pending.items() if not future.done()}
            known = (self._new.get(other) or self.measured.get(other) for other in pending)
            longest = max((m.total_seconds for m in known if m is not None), default=None)
            n_ahead = sum(not future.done() for future in self._ahead.values())
            n_idle = self.executor.n_workers - len(running) - n_ahead
            seconds = None if longest is None or n_idle < 1 else max(_LEAST_SECONDS, _TIMES * longest)
            self.wait_for_any(running.values(), timeout=seconds)
            if seconds is not None and not any(future.done() for future in running.values()):
                names = ", ".join(dict.fromkeys(plan.digest for plan, _ in running))
                text = "Idle workers: %d. The search waits for plan %s; those that have finished took at most"
                log.info(f"{text} %.0f s.", n_idle, names, longest)
            self._record_finished({**pending, **self._ahead})
        if key not in self._new:
            self._record(key, pending[key])

    def _record_finished(self, pending: Mapping[Key, Future[Measurement]]) -> None:
        for key, future in pending.items():
            if future.done() and key not in self._new and key not in self.measured:
                self._record(key, future)

    def _record(self, key: Key, future: Future[Measurement]) -> None:
        """Put a new measurement on the disk, and note its speed."""
        measurement = future.result()
        self.record(measurement)
        self._new[key] = measurement
        if measurement.status is not Status.COMPLETE:
            return
        self._overhead_seconds.append(measurement.overhead_seconds)
        per_example = measurement.eval_seconds / measurement.fidelity.eval_examples
        self._seconds_per_example[measurement.metric is not None].append(per_example)
        if measurement.plan.adapters and measurement.trained_steps:
            self._seconds_per_step.append(measurement.train_seconds / measurement.trained_steps)

    def note_arm(self, plan: Plan, arm: Arm, *, is_baseline: bool) -> None:
        """Remember under which arm a plan was first proposed, and whether it is a baseline."""
        self.arms.setdefault(plan, arm)
        if is_baseline and not self.is_baseline(plan):
            self._baselines.append(plan.adapters)

    def is_baseline(self, plan: Plan) -> bool:
        """Whether a plan has the adapters of a baseline, whoever proposed its learning rate."""
        return plan.adapters in self._baselines

    def at(self, fidelity: Fidelity) -> Measured:
        """The measurements of this run at one fidelity."""
        return {plan: m for (plan, measured_at), m in self.measured.items() if measured_at == fidelity}

    def plan_ahead(self, fidelity: Fidelity, *, n_measurements: int, new_steps: int | None = None) -> None:
        """Set how many measurements of a kind are still to come; the time left is estimated from it.

        `new_steps` counts the steps that each has still to train, where a rung continues an earlier one.
        """
        self._planned[_kind(fidelity)] = _Planned(fidelity, n_measurements, new_steps)

    def limit_cost(self, schedule: Schedule, *, max_cost: float) -> None:
        """Tell the limit in R that the run keeps to, so that the time left is no more than it pays."""
        self._cost_limit = (schedule, max_cost)

    def cost(self, schedule: Schedule) -> float:
        """Cost of all measurements so far in R, counted in steps and examples."""
        return math.fsum(map(schedule.cost_of, self.measured.values()))

    def worst_loss(self) -> float:
        """The largest finite loss so far."""
        return max((m.loss for m in self.measured.values() if m.loss is not None), default=_BAD_LOSS)

    def estimate(self, fidelity: Fidelity, *, new_steps: int | None = None) -> float:
        """Seconds of one measurement, by the mean speed so far; 0 before anything was timed.

        `new_steps` counts the steps that are still to be trained, where a rung continues an earlier one.
        """
        steps = fidelity.train_steps if new_steps is None else new_steps
        steps = 0 if fidelity.split == "test" else steps
        training = steps * _pace(self._seconds_per_step)
        without, whole = map(_pace, (self._seconds_per_example[False], self._seconds_per_example[True]))
        return training + fidelity.eval_examples * (whole or without) + _pace(self._overhead_seconds)

    def confirm_reserve(self, problem: SearchProblem) -> float:
        """Seconds to keep for confirming best and baseline, for their test split, and for the report."""
        if problem.spec.confirm.fidelity == "none":
            return self.report_seconds()
        seconds = 2 * problem.spec.confirm.seeds * self.estimate(problem.confirmation(0))
        return _RESERVE_FACTOR * seconds + self.report_reserve(problem, n_plans=2)

    def verdict_reserve(self, problem: SearchProblem) -> float:
        """Seconds to keep for the least verdict, two seeds of best and baseline, and for the report.

        The seeds are counted at half length where full ones would take too much of the time limit.
        """
        if problem.spec.confirm.fidelity == "none":
            return self.report_seconds()
        full, half = (
            _LEAST_RUNS * self.estimate(candidate.confirmation(0))
            for candidate in (problem, problem.at_half_length)
        )
        is_long = full > _MOST_CONFIRM * (math.inf if self.limit_seconds is None else self.limit_seconds)
        reading = self.test_reserve(problem, n_runs=_LEAST_RUNS)
        return (half if is_long else full) + reading + self.report_seconds()

    def report_seconds(self) -> float:
        """Seconds to keep for the report."""
        return min(_REPORT_RESERVE_SECONDS, _REPORT_RESERVE_SHARE * (self.limit_seconds or math.inf))

    def report_reserve(self, problem: SearchProblem, *, n_plans: int) -> float:
        """Seconds to keep for the test split of some plans, and for the report."""
        n_runs = n_plans * problem.spec.confirm.seeds
        return self.test_reserve(problem, n_runs=n_runs) + self.report_seconds()

    def test_reserve(self, problem: SearchProblem, *, n_runs: int) -> float:
        """Seconds to keep for the test split of some confirmed runs."""
        return n_runs * self.estimate(problem.schedule.fidelity("test", seed=0))

    def n_new(self, fidelity: Fidelity, *, n_measurements: int) -> int:
        """How many of the next measurements at a fidelity are to be made: those not stored by an earlier run.

        What is stored takes no time, so that no time limit ends a search before it.
        """
        return max(0, n_measurements - self._n_stored[fidelity])

    def has_time_for(self, *, seconds: float, reserve: float) -> bool:
        """Whether so many seconds and a reserve fit before the time limit."""
        return seconds + reserve <= self._limit_left()

    def _limit_left(self) -> float:
        limit = math.inf if self.limit_seconds is None else self.limit_seconds
        return limit - self.clock()

    @property
    def tolerance(self) -> float:
        """Seconds beyond the time limit at which a run may still end, for the sake of a verdict."""
        return _LATE_SHARE * (self.limit_seconds or 0.0) + _LATE_SECONDS

    def require_time(self) -> None:
        """Raise StoppedError where the time limit has passed; all measurements are kept."""
        if not self.has_time_for(seconds=0.0, reserve=0.0):
            raise StoppedError(TIME_IS_UP)


def _kind(fidelity: Fidelity) -> tuple[str, int]:
    return (fidelity.split, fidelity.train_steps)


def _pace(values: Sequence[float]) -> float:
    """The mean of all values or of the latest four, whichever is more: a shared machine may slow down."""
    return max((math.fsum(some) / len(some) for some in (values, values[-_N_LATEST:]) if some), default=0.0)


def first_error(measurements: Iterable[Measurement]) -> str:
    """The first error message among some measurements."""
    return next((m.error for m in measurements if m.error), "no error was given")
