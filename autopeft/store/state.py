"""What a run keeps on the disk so that it can be resumed: `state.json` and the log of measurements."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autopeft.store.files import read_record, write_record
from autopeft.store.run_dir import STATE, RunDir
from autopeft.types import Decision, Fidelity, Measurement, Plan, Status, TargetScores

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RunState:
    """The content of `state.json`.

    `start` is what the measurements depend on, by name: settings, data, weights, versions. `decisions` are
    the settings that the run derived. `scores` is the sensitivity of the target modules; None before it is
    measured, and never in the file.
    """

    start: dict[str, Any]
    decisions: tuple[Decision, ...] = ()
    scores: tuple[TargetScores, ...] | None = None
    scoring_seconds: float = 0.0


def read_state(run: RunDir) -> RunState | None:
    """Read `state.json`; None if it does not exist. Raises RunDirError if it is damaged."""
    try:
        return read_record(run.state / STATE, RunState, remedy="start again with another --out")
    except FileNotFoundError:
        return None


def write_state(run: RunDir, state: RunState) -> None:
    """Write `state.json`."""
    write_record(run.state / STATE, state)


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """List what differs between the facts that a run began with and those of now; "" if nothing does."""
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return "; ".join(f"{name} was {before.get(name)} and is now {now.get(name)}" for name in names)


def logged_measurements(run: RunDir) -> dict[tuple[Plan, Fidelity], Measurement]:
    """Read the measurements of a stopped run, except full runs that have lost their weights."""
    measured = {}
    for measurement in run.measurements.load():
        plan, fidelity = measurement.plan, measurement.fidelity
        keeps_weights = fidelity.split == "confirm" and measurement.status is Status.COMPLETE
        if keeps_weights and not run.weights(plan, fidelity.seed).is_dir():
            text = "The kept weights of plan %s, seed %d, are missing; they are trained again."
            log.warning(text, plan.digest, fidelity.seed)
        else:
            measured[plan, fidelity] = measurement
    return measured


def record(run: RunDir, measurement: Measurement) -> None:
    """Add a measurement to the log, and remove the state of its training.

    A measurement that failed by the machine's fault is not logged, so that `--resume` tries it again.
    """
    if measurement.status.is_of_machine:
        return
    run.measurements.append(measurement)
    shutil.rmtree(run.under_way(measurement.plan, measurement.fidelity), ignore_errors=True)
