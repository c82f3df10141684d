"""The measurements of a run: its log as a resumed search uses it, and the weights of its confirmations."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from autopeft.engine import Schedule
from autopeft.errors import TrainingError
from autopeft.records import Fidelity, Measurement, Outcome, Plan, Status
from autopeft.store import Entry, RunDir, seal_of
from autopeft.train import rate_schedule

log = logging.getLogger(__name__)


def logged_measurements(
    run: RunDir, schedule: Schedule
) -> tuple[dict[tuple[Plan, Fidelity], Measurement], list[Measurement]]:
    """Measurements of a stopped run that this schedule can use, and rungs of another one, which it cannot.

    A confirmation is used only where its weights are as it left them.
    """
    entries = run.measurements.entries()  # which warns of damaged lines
    spent = [entry.measurement for entry in run.measurements.every() if not _is_usable(entry, schedule)]
    return _known(run, [entry for entry in entries if _is_usable(entry, schedule)]), spent


def _is_usable(entry: Entry, schedule: Schedule) -> bool:
    """Whether a rung or full run of a search is one of this schedule, with the same cycles of its rate."""
    fidelity = entry.measurement.fidelity
    if fidelity.split != "search" or entry.cycles is None:
        return True
    rungs = (schedule.rung(i, seed=fidelity.seed) for i in range(len(schedule.rung_steps)))
    is_planned = fidelity in (*rungs, schedule.full_rung(seed=fidelity.seed))
    return is_planned and entry.cycles == _cycles(fidelity, schedule)


def _cycles(fidelity: Fidelity, schedule: Schedule) -> tuple[int, ...] | None:
    """Where the cycles of a run's learning rate end, where it is one of the search."""
    if fidelity.split != "search":
        return None
    return rate_schedule(fidelity.train_steps, rung_steps=schedule.rung_steps).ends


def unused_measurements(run: RunDir, outcome: Outcome) -> list[Measurement]:
    """Measurements of a run from before it was resumed that its outcome does not use."""
    used = {(measurement.plan, measurement.fidelity) for measurement in outcome.measurements}
    unused = []
    for measurement in reversed([entry.measurement for entry in run.measurements.every()]):
        key = (measurement.plan, measurement.fidelity)
        if key in used:
            used.remove(key)
        else:
            unused.append(measurement)
    return unused


def _known(run: RunDir, entries: Sequence[Entry]) -> dict[tuple[Plan, Fidelity], Measurement]:
    known = {}
    for measurement, seal, _ in entries:
        plan, fidelity = measurement.plan, measurement.fidelity
        if not _keeps_weights(measurement) or seal_of(run.weights(plan, fidelity.seed)) == seal is not None:
            known[plan, fidelity] = measurement
        else:
            log.warning(
                "The kept weights of plan %s, seed %d, are missing or damaged; they are trained again.",
                plan.digest,
                fidelity.seed,
            )
    return known


def copy_weights(run: RunDir, measurement: Measurement, folder: Path) -> None:
    """Copy the weights that a confirmation kept; TrainingError where the copy is not what it left."""
    plan, seed = measurement.plan, measurement.fidelity.seed
    seals = {(m.plan, m.fidelity): seal for m, seal, _ in run.measurements.entries()}
    seal = seals.get((plan, measurement.fidelity))
    shutil.copytree(run.weights(plan, seed), folder, symlinks=True)
    if seal is None or seal_of(folder) != seal:
        raise TrainingError(
            f"The kept weights of plan {plan.digest}, seed {seed}, were damaged during the run; "
            "--resume trains them again."
        )


def _keeps_weights(measurement: Measurement) -> bool:
    return measurement.fidelity.split == "confirm" and measurement.status is Status.COMPLETE


def record(run: RunDir, measurement: Measurement, schedule: Schedule) -> None:
    """Keep what would come out the same again; a failure of the machine is tried anew on resume.

    The state of the training is dropped after the measurement is on the disk.
    """
    if measurement.status.is_of_machine:
        return
    folder = run.weights(measurement.plan, measurement.fidelity.seed)
    seal = seal_of(folder) if _keeps_weights(measurement) else None
    cycles = _cycles(measurement.fidelity, schedule)
    run.measurements.append(measurement, weights=seal, cycles=cycles)
    shutil.rmtree(run.under_way(measurement.plan, measurement.fidelity), ignore_errors=True)
