"""What a run keeps for its resumption: scores, decisions, measurements, and the weights of a confirmation."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from autopeft.errors import RunDirError, TrainingError
from autopeft.records import (
    Decision,
    Fidelity,
    Measurement,
    Plan,
    RunSpec,
    SiteScores,
    Status,
    from_json,
    to_json,
)
from autopeft.store import RunDir, damaged, read_checked, seal_of, write_checked

Record = TypeVar("Record")

_DECISIONS = "decisions.json"  # in the state of a run: settings that it derived
# How a step is cut into pieces that fit into the memory, and what stands for a choice that is left open.
PIECES = {"execution.micro_batch_tokens": None, "execution.checkpointing": "auto"}

log = logging.getLogger(__name__)


def keep_scores(run: RunDir, compute: Callable[[], tuple[SiteScores, ...]]) -> tuple[SiteScores, ...]:
    """The sensitivity scores of this run: those on the disk, so that ranks come out the same again.

    Damaged ones are computed anew, after a warning.
    """
    path = run.state / "scores.json"
    if path.is_file():
        try:
            return _read(tuple[SiteScores, ...], path)
        except RunDirError as error:
            log.warning("%s", error)
    scores = compute()
    write_checked(path, [to_json(score) for score in scores])
    return scores


def keep_decisions(run: RunDir, spec: RunSpec, derived: tuple[Decision, ...]) -> tuple[Decision, ...]:
    """The settings that this run derived: those on the disk, since a resumed run reads their values.

    The pieces of a step may have been chosen again, or given.
    """
    if (kept := kept_decisions(run)) is not None:
        again = {decision.setting: decision for decision in derived if decision.setting in PIECES}
        current = to_json(spec)
        derived = tuple(
            again.pop(decision.setting, decision)
            for decision in kept
            if _still_holds(decision, again, current)
        )
        derived += tuple(again.values())
    if derived != kept:
        write_checked(run.state / _DECISIONS, [to_json(decision) for decision in derived])
    return derived


def _still_holds(decision: Decision, again: Collection[str], current: Any) -> bool:
    """Whether a decision on the disk was made again, or its setting has the value that it gave it."""
    topic, field = decision.setting.split(".")
    is_given = decision.setting in PIECES and str(current[topic][field]) != decision.value
    return decision.setting in again or not is_given


def kept_decisions(run: RunDir) -> tuple[Decision, ...] | None:
    """The decisions on the disk; None before there are any, or after a warning where they are damaged."""
    path = run.state / _DECISIONS
    if not path.is_file():
        return None
    try:
        return _read(tuple[Decision, ...], path)
    except RunDirError as error:
        log.warning("%s", error)
        return None


def _read(kind: type[Record], path: Path) -> Record:
    remedy = "it is made anew"
    try:
        return from_json(kind, read_checked(path, remedy=remedy))
    except ValidationError as error:
        raise damaged(path, remedy=remedy) from error


def known_measurements(run: RunDir) -> dict[tuple[Plan, Fidelity], Measurement]:
    """Measurements of a stopped run; a confirmation is used only where its weights are as it left them."""
    known = {}
    for measurement, seal in run.measurements.entries():
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
    """Keep what would come out the same again; a failure of the machine is tried anew on resume."""
    if measurement.status.is_of_machine:
        return
    folder = run.weights(measurement.plan, measurement.fidelity.seed)
    seal = seal_of(folder) if _keeps_weights(measurement) else None
    run.measurements.append(measurement, weights=seal)
