"""A whole search on simulated workers: how busy they are, and how fast the coordinator hands out work.

    PYTHONPATH=.:tests python reports/speed/simulated_workers.py --workers 1,8,64,512 --wave 4

The search is real, and so is the time that it takes to propose and to record. Measurements are not: a step
takes 10 seconds of a simulated clock, stretched by a lognormal factor (sigma 0.3), and in one of twenty
measurements by five more. The factor follows from the measurement alone, so that all settings share it. The
coordinator's own seconds are added to the simulated clock. `--wave 0` proposes as many plans at once as there
are workers. Printed as CSV, a line for each phase and one for the whole search.

`--schedules` prints instead, without a search, how busy the workers would be in the first rung if a proposal
waited for fewer others: in waves (nothing of the next wave starts before the last of this one ends), or in a
window (proposal k starts once all of the first k - L have ended).
"""

from __future__ import annotations

import argparse
import csv
import heapq
import itertools
import random
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import optuna
from optuna.storages import InMemoryStorage
from toys.engine import World, levels, problem

from autopeft import engine
from autopeft.engine import Ledger
from autopeft.executors.serial import Result, Serial
from autopeft.records import Fidelity, Measurement, Plan

STEP_SECONDS, SIGMA, STRAGGLERS, STRETCH = 10.0, 0.3, 0.05, 5.0  # chosen by hand
FIELDS = (
    "workers wave trials phase measurements seconds coordinator_seconds utilisation per_second best".split()
)


class Simulated(Serial):
    """An executor with a clock of its own: seconds of the coordinator, and of what it waits for."""

    name = "simulated"

    def __init__(self, n_workers: int) -> None:
        """All workers are free at second 0."""
        self.n_workers = n_workers
        self.seconds = self.busy_seconds = self.coordinator_seconds = 0.0
        self._free = [0.0] * n_workers  # a heap: the second at which each worker is free
        self._running: list[
            tuple[float, int, Future[Any], Measurement]
        ] = []  # a heap by the second of the end
        self._n_submitted = 0
        self._noted = time.perf_counter()

    def submit(self, fn: Callable[..., Result], /, *args: Any) -> Future[Result]:
        """Start a measurement on the worker that is free first; with one worker, wait for it."""
        self.clock()
        measurement: Any = fn(*args)
        seconds = measurement.trained_steps * STEP_SECONDS * stretch(*args)
        end = max(self.seconds, heapq.heappop(self._free)) + seconds
        heapq.heappush(self._free, end)
        self.busy_seconds += seconds
        future: Future[Result] = Future()
        self._n_submitted += 1
        heapq.heappush(self._running, (end, self._n_submitted, future, measurement))
        self._noted = time.perf_counter()
        if self.n_workers == 1:
            self.wait_for_any([future])
        return future

    def clock(self) -> float:
        """Simulated seconds; those of the coordinator since the last look are added."""
        now = time.perf_counter()
        self.seconds += now - self._noted
        self.coordinator_seconds += now - self._noted
        self._noted = now
        self._finish()
        return self.seconds

    def wait_for_any(self, futures: Collection[Future[Any]], *, timeout: float | None = None) -> None:
        """Set the clock to the end of the measurement that ends first, however long that takes."""
        self.clock()
        while not any(future.done() for future in futures):
            self.seconds = max(self.seconds, self._running[0][0])
            self._finish()
        self._noted = time.perf_counter()

    def _finish(self) -> None:
        while self._running and self._running[0][0] <= self.seconds:
            _, _, future, measurement = heapq.heappop(self._running)
            future.set_result(measurement)


def stretch(plan: Plan, fidelity: Fidelity) -> float:
    """The factor on the time of a measurement."""
    rng = random.Random(f"{plan.digest} {fidelity}")
    return rng.lognormvariate(0.0, SIGMA) * (STRETCH if rng.random() < STRAGGLERS else 1.0)


class Phases:
    """Progress that remembers, for each phase, the readings of the executor at its beginning."""

    def __init__(self, executor: Simulated) -> None:
        """No phase has begun."""
        self.executor = executor
        self.begun: list[tuple[str, float, float, float, int]] = []
        self.n_measured = 0

    def phase(self, name: str, n_measurements: int) -> None:
        """Note the readings."""
        simulated = self.executor
        readings = (simulated.clock(), simulated.coordinator_seconds, simulated.busy_seconds)
        self.begun.append((name, *readings, self.n_measured))

    def measured(
        self, measurement: object, *, arm: str, is_baseline: bool, seconds_left: float | None
    ) -> None:
        """Count a measurement."""
        self.n_measured += 1


def simulate(n_workers: int, *, wave: int, trials: int) -> list[dict[str, object]]:
    """Search, and describe each phase and the whole."""
    executor = Simulated(n_workers)
    phases, world = Phases(executor), World(quality=levels())
    ledger = Ledger(
        executor=executor,
        measure=world.measure,
        progress=phases,
        clock=executor.clock,
        wait_for_any=executor.wait_for_any,
    )
    settings = problem(trials=trials, sampler="auto", seeds=4, wave=wave)
    outcome = engine.search(settings, ledger, storage=InMemoryStorage())
    phases.phase("end", 0)
    best = min(m.loss for m in outcome.measurements if m.loss is not None and m.fidelity.train_steps == 12)
    begun = phases.begun
    rows = []
    for first, last in [*itertools.pairwise(begun), (("whole", *begun[0][1:]), begun[-1])]:
        seconds, coordinator, busy, n = (b - a for a, b in zip(first[1:], last[1:], strict=True))
        values = (n_workers, wave, trials, first[0], n, round(seconds, 1), round(coordinator, 2))
        shares = (round(busy / (seconds * n_workers), 3), round(n / seconds, 3), round(best, 4))
        rows.append(dict(zip(FIELDS, (*values, *shares), strict=True)))
    return rows


def busy_share(seconds: Sequence[float], n_workers: int, needed: Callable[[int], int]) -> float:
    """Utilisation where run k starts once the first `needed(k)` runs have ended and a worker is free."""
    free, ends, latest = [0.0] * n_workers, [], [0.0]  # latest[k]: the end of the last of the first k runs
    for k, duration in enumerate(seconds):
        end = max(heapq.heappop(free), latest[needed(k)]) + duration
        heapq.heappush(free, end)
        ends.append(end)
        latest.append(max(latest[-1], end))
    return sum(seconds) / (n_workers * max(ends))


def schedules(n_workers: int, trials: int) -> Iterator[dict[str, object]]:
    """Utilisation in waves and in windows of several sizes, of runs of about 30 seconds each."""
    rng = random.Random(0)
    factors = [rng.lognormvariate(0.0, SIGMA) for _ in range(trials)]
    seconds = [30 * factor * (STRETCH if rng.random() < STRAGGLERS else 1.0) for factor in factors]
    for size in dict.fromkeys((4, n_workers, 2 * n_workers, 4 * n_workers)):
        waves = busy_share(seconds, n_workers, lambda k, size=size: k // size * size)
        window = busy_share(seconds, n_workers, lambda k, size=size: max(0, k + 1 - size))
        yield {"workers": n_workers, "size": size, "waves": round(waves, 2), "window": round(window, 2)}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workers", default="1,8,64,512")
    parser.add_argument("--wave", type=int, default=4)
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--schedules", action="store_true")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if options.schedules:
        writer = csv.DictWriter(sys.stdout, ("workers", "size", "waves", "window"))
        writer.writeheader()
        for n_workers in map(int, options.workers.split(",")):
            writer.writerows(schedules(n_workers, 64 * n_workers))
        return
    writer = csv.DictWriter(sys.stdout, FIELDS)
    writer.writeheader()
    for n_workers in map(int, options.workers.split(",")):
        wave = options.wave or max(4, n_workers)
        writer.writerows(simulate(n_workers, wave=wave, trials=options.trials))
        sys.stdout.flush()


if __name__ == "__main__":
    main()
