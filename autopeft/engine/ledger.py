"""The ledger: what was asked and measured, each plan at each fidelity once, and how much time is left."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from autopeft.engine.schedule import Schedule
from autopeft.errors import StoppedError
from autopeft.extension import Executor
from autopeft.records import Arm, Fidelity, Measurement, Plan, RunSpec, Status
from autopeft.space import AllocationContext, Space

_RESERVE_FACTOR = 1.2  # on the estimate of what confirmation takes; chosen by hand
_RESERVE_SECONDS = 15.0  # for the test split and the report; chosen by hand

TIME_IS_UP = (
    "The time was up before two seeds were confirmed, so there is no verdict yet; "
    "continue with --resume and a larger --max-time."
)

Measure = Callable[[Plan, Fidelity], Measurement]
Key = tuple[Plan, Fidelity]


class Progress(Protocol):
    """What a display is told; all calls come from the thread that searches."""

    def phase(self, name: str, n_measurements: int) -> None:
        """A phase begins: rung 1, rung 2, confirmation, test."""

    def measured(self, measurement: Measurement, *, arm: str, seconds_left: float | None) -> None:
        """A measurement is in."""


@dataclass(frozen=True, kw_only=True)
class SearchProblem:
    """What a search is asked: the user's wish, the space, the context it stands on, and the schedule.

    `head_rates` is the range of learning rates for the head alone, one value where the model has none.
    `first_trials` is the number of trials that the run began with: what is enqueued follows it, and stays as
    it was when a finished run is extended. `null_scores` maps parameters and random to their values by
    site. `given` holds plans that the user brought, by the name of their arm: they race beside the
    baselines, at several learning rates (around their own, where it is above 0), and win only if they keep
    to the budget. `score_span` is the width of the range of the task's scores, None where they have no
    bounds; `margin` the difference that does not matter, in units of the metric.
    """

    spec: RunSpec
    space: Space
    context: AllocationContext
    schedule: Schedule
    metric: str
    greater_is_better: bool
    head_rates: tuple[float, float]
    first_trials: int
    null_scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    user_plans: tuple[tuple[Arm, Plan], ...] = ()
    score_span: float | None = 1.0
    margin: float = 0.01

    @property
    def seed(self) -> int:
        """Seed of every rung; confirmations take the ones after it."""
        return self.spec.search.seed

    @property
    def sign(self) -> float:
        """Turns the metric into one where larger is better."""
        return 1.0 if self.greater_is_better else -1.0

    @property
    def without_adapters(self) -> Arm:
        """The arm of plans without adapters: the head alone, or the base model untrained."""
        return Arm(kind="head", label="head" if self.head_rates[0] < self.head_rates[1] else "untrained")

    @property
    def has_baseline(self) -> bool:
        """Whether LoRA fits the budget at all; where it does not, the head alone is the baseline."""
        lora, context = self.context.methods["lora"], self.context
        fitting = (site for site in context.sites if lora.refusal(site) is None)
        return any(lora.cost(site, 1, {}) <= context.max_params for site in fitting)


@dataclass(kw_only=True)
class Ledger:
    """Measures through an executor, in order, and remembers.

    `known` holds measurements of an earlier, stopped run: whatever is known is not measured
    twice. `record` is told every new one before the search goes on. `release` is told which plans no rung
    takes up again, so that their paused state can go. `clock` gives seconds.
    """

    executor: Executor
    measure: Measure
    progress: Progress
    known: Mapping[Key, Measurement] = field(default_factory=dict)
    record: Callable[[Measurement], None] = lambda measurement: None
    release: Callable[[Collection[Plan]], None] = lambda plans: None
    clock: Callable[[], float] = time.monotonic
    started: float = 0.0
    limit_seconds: float | None = None
    measured: dict[Key, Measurement] = field(default_factory=dict)
    arms: dict[Plan, Arm] = field(default_factory=dict)
    _planned: dict[tuple[str, int], tuple[Fidelity, int]] = field(default_factory=dict)
    _seconds_per_step: list[float] = field(default_factory=list)
    _seconds_per_example: list[float] = field(default_factory=list)

    def measure_all(self, asked: Sequence[Key]) -> list[Measurement]:
        """Measure what is not known yet; the answers stand in the order of the questions."""
        keys = [key for key in dict.fromkeys(asked) if key not in self.measured]
        pending: dict[Key, Future[Measurement]] = {}
        n_taken = 0
        for key in keys:
            if key not in self.known:
                pending[key] = self.executor.submit(self.measure, *key)
            # An executor that runs at submit is done here: on the disk before the next one begins,
            # since a signal may come then.
            while n_taken < len(keys) and self._is_there(keys[n_taken], pending):
                self._take(keys[n_taken], pending)
                n_taken += 1
        for key in keys[n_taken:]:
            self._take(key, pending)
        return [self.measured[key] for key in asked]

    def _is_there(self, key: Key, pending: Mapping[Key, Future[Measurement]]) -> bool:
        return key in self.known or (key in pending and pending[key].done())

    def _take(self, key: Key, pending: Mapping[Key, Future[Measurement]]) -> None:
        """Wait for an answer, record it if it is new, and tell the display."""
        if key in pending:
            measurement = pending[key].result()
            self.record(measurement)
            self._note_speed(measurement)
        else:
            measurement = self.known[key]
        self.measured[key] = measurement
        self._count_down(key[1])
        arm = str(self.arms.get(key[0], ""))
        self.progress.measured(measurement, arm=arm, seconds_left=self._seconds_left())

    def plan_ahead(self, fidelity: Fidelity, *, n_measurements: int) -> None:
        """Say how many measurements of a kind are still to come, for the time left."""
        self._planned[_kind(fidelity)] = (fidelity, n_measurements)

    def cost(self, schedule: Schedule) -> float:
        """What the search has cost so far in R, by steps and examples."""
        searched = (m for m in self.measured.values() if m.fidelity.split == "search")
        return math.fsum(schedule.cost_of(measurement) for measurement in searched)

    def worst_loss(self) -> float:
        """The largest finite loss so far; 5.0, as bad as a guess among 150 classes, where there is none."""
        return max((m.loss for m in self.measured.values() if m.loss is not None), default=5.0)

    def estimate(self, fidelity: Fidelity, *, new_steps: int | None = None) -> float:
        """Seconds of one measurement, by the mean speeds of what was seen; 0 before anything was.

        `new_steps` are those that are still to be trained, where some are done.
        """
        steps = fidelity.train_steps if new_steps is None else new_steps
        steps = 0 if fidelity.split in ("test", "general") else steps
        return steps * _mean(self._seconds_per_step) + fidelity.eval_examples * _mean(
            self._seconds_per_example
        )

    def confirm_reserve(self, problem: SearchProblem) -> float:
        """Seconds to keep for confirming best and baseline, for their test split, and for the report."""
        schedule, confirm = problem.schedule, problem.spec.confirm
        if confirm.fidelity == "none":
            return _RESERVE_SECONDS
        run = self.estimate(schedule.fidelity("confirm", seed=0))
        return _RESERVE_FACTOR * 2 * confirm.seeds * run + self.report_reserve(problem, n_plans=2)

    def report_reserve(self, problem: SearchProblem, *, n_plans: int) -> float:
        """Seconds to keep for the test split and the general text of some plans, and for the report."""
        test, general = (
            self.estimate(problem.schedule.fidelity(split, seed=0)) for split in ("test", "general")
        )
        n_runs = n_plans * problem.spec.confirm.seeds
        return n_runs * (test + general) + general + _RESERVE_SECONDS  # general text: the base model too

    def has_time_for(self, *, seconds: float, reserve: float) -> bool:
        """Whether so many seconds fit before the limit, what is kept in reserve apart."""
        if self.limit_seconds is None:
            return True
        return self.clock() - self.started + seconds + reserve <= self.limit_seconds

    def require_time(self) -> None:
        """Stop where the limit itself has passed before a verdict; what was measured is kept."""
        if self.limit_seconds is not None and self.clock() - self.started > self.limit_seconds:
            raise StoppedError(TIME_IS_UP)

    def _note_speed(self, measurement: Measurement) -> None:
        fidelity = measurement.fidelity
        if measurement.status is not Status.COMPLETE:
            return
        self._seconds_per_example.append(measurement.eval_seconds / fidelity.eval_examples)
        if measurement.plan.adapters and measurement.trained_steps:
            self._seconds_per_step.append(measurement.train_seconds / measurement.trained_steps)

    def _count_down(self, fidelity: Fidelity) -> None:
        planned, n_left = self._planned.get(_kind(fidelity), (fidelity, 0))
        self._planned[_kind(fidelity)] = (planned, max(0, n_left - 1))

    def _seconds_left(self) -> float | None:
        """An estimate over what is planned; None before anything was timed."""
        if not self._seconds_per_step:
            return None
        return math.fsum(n_left * self.estimate(fidelity) for fidelity, n_left in self._planned.values())


def _kind(fidelity: Fidelity) -> tuple[str, int]:
    return (fidelity.split, fidelity.train_steps)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else 0.0


def by_loss(measurement: Measurement) -> tuple[float, int, str]:
    """Sort key: loss first, then fewer parameters, then the digest, so that the order is total."""
    loss = math.inf if measurement.loss is None else measurement.loss
    return (loss, measurement.plan.trainable_params, measurement.plan.digest)


def is_baseline(plan: Plan, problem: SearchProblem, ledger: Ledger) -> bool:
    """Whether a plan is one of the baselines (the head alone, where no LoRA fits the budget)."""
    if not problem.has_baseline:
        return not plan.adapters
    arm = ledger.arms.get(plan)
    return arm is not None and arm.kind == "baseline"


def has_broken(measurement: Measurement) -> bool:
    """Whether a run failed for a reason outside of its plan, such as a full disk; a diverged run did not."""
    return measurement.status is Status.FAIL


def first_error(measurements: Mapping[Plan, Measurement]) -> str:
    """The first error message among some measurements."""
    return next((m.error for m in measurements.values() if m.error), "no error was given")
