"""The measurements of a run: its log as a resumed search uses it, and the weights of its confirmations."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from autopeft.errors import TrainingError
from autopeft.records import Fidelity, Measurement, Outcome, Plan, Status
from autopeft.store import RunDir, seal_of

log = logging.getLogger(__name__)


def logged_measurements(run: RunDir) -> dict[tuple[Plan, Fidelity], Measurement]:
    """Measurements of a stopped run; a confirmation only where its weights are as it left them."""
    known = {}
    for measurement, seal in run.measurements.entries():  # which warns of damaged lines
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


def unused_measurements(run: RunDir, outcome: Outcome) -> list[Measurement]:
    """Measurements of a run that its outcome does not use, as of weights that were trained again."""
    used = {(measurement.plan, measurement.fidelity) for measurement in outcome.measurements}
    unused = []
    for measurement in reversed(run.measurements.every()):
        key = (measurement.plan, measurement.fidelity)
        if key in used:
            used.remove(key)
        else:
            unused.append(measurement)
    return unused


def copy_weights(run: RunDir, measurement: Measurement, folder: Path) -> None:
    """Copy the weights that a confirmation kept; TrainingError where the copy is not what it left."""
    plan, seed = measurement.plan, measurement.fidelity.seed
    seals = {(m.plan, m.fidelity): seal for m, seal in run.measurements.entries()}
    seal = seals.get((plan, measurement.fidelity))
    shutil.copytree(run.weights(plan, seed), folder, symlinks=True)
    if seal is None or seal_of(folder) != seal:
        raise TrainingError(
            f"The kept weights of plan {plan.digest}, seed {seed}, were damaged during the run; "
            "--resume trains them again."
        )


def _keeps_weights(measurement: Measurement) -> bool:
    return measurement.fidelity.split == "confirm" and measurement.status is Status.COMPLETE


def record(run: RunDir, measurement: Measurement) -> None:
    """Keep what would come out the same again; a failure of the machine is tried anew on resume.

    The state of the training is dropped after the measurement is on the disk.
    """
    if measurement.status.is_of_machine:
        return
    folder = run.weights(measurement.plan, measurement.fidelity.seed)
    seal = seal_of(folder) if _keeps_weights(measurement) else None
    run.measurements.append(measurement, weights=seal)
    shutil.rmtree(run.under_way(measurement.plan, measurement.fidelity), ignore_errors=True)
