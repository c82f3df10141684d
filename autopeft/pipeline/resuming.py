"""`--resume`: restore a run's settings, scores and decisions, and reuse its measurements."""

from __future__ import annotations

import logging
import math
import re
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from autopeft.errors import RunDirError, SpecError, TrainingError
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
from autopeft.store import RunDir, damaged, read_checked, seal_of, whole_path, write_checked

Record = TypeVar("Record")

_COST = "search.max_cost"
_DECISIONS = "decisions.json"  # in the state of a run: settings that it derived
_MEMORY = "execution.memory_bytes"
# How a step is cut into pieces that fit into the memory, and what stands for a choice that is left open.
_PIECES = {"execution.micro_batch_tokens": None, "execution.checkpointing": "auto"}
# What a resumed run may change: limits, how measurements are spread over processes and devices of one kind,
# the pieces of a step, whose gradients add up to the same, and what logs them.
CHANGEABLE = frozenset(
    {
        *("search.trials", "search.max_time_seconds", "search.max_cost"),
        *("output.out", "output.report_to"),
        *("execution.executor", "execution.workers", "execution.device"),
        *(_MEMORY, *_PIECES),
    }
)

log = logging.getLogger(__name__)


def resumed(requested: RunSpec, given: frozenset[str]) -> RunSpec:
    """The stored settings of the run in `requested.output.out`, with what the user may change of them.

    These are limits, of which trials and cost can only grow; executor, workers and device; memory and the
    pieces of a step, which the run chooses again where it is given another memory; and trackers.
    Raises SpecError where another setting in `given` (dotted names) differs.
    """
    if requested.output.out is None:
        raise SpecError("--resume needs --out with the run directory to continue.")
    run = RunDir.open(requested.output.out)
    stored = run.read_spec()
    # A run directory may have been moved, so that run.yaml does not hold its path.
    topics = stored.model_dump()
    topics["output"]["out"] = requested.output.out
    for name in sorted(given):
        topic, field = name.split(".")
        value = getattr(getattr(requested, topic), field)
        if name == "model.revision" and _is_commit(topics[topic][field]) and not _is_commit(value):
            continue  # the run keeps the commit that the branch or tag named when it started
        if name in ("execution.dtype", "execution.checkpointing") and value == "auto":
            continue  # the run keeps what it has chosen
        if isinstance(value, str) and value == whole_path(str(topics[topic][field])):
            continue  # an older run has relative paths
        if name not in CHANGEABLE and value != topics[topic][field]:
            raise SpecError(
                f"--resume keeps the settings of the run: {name} was {topics[topic][field]!r} and cannot "
                f"become {value!r}. Only --trials and --max-cost (which can grow), --max-time, --executor, "
                "--workers, --device, --memory, --micro-batch-tokens, --checkpointing and --report-to may "
                "change; pass another --out for a new run."
            )
        _refuse_less(name, before=topics[topic][field], now=value)
        topics[topic][field] = value
    derived = {decision.setting for decision in _decisions(run) or ()}
    if "search.trials" in given and _COST in derived - given:
        topics["search"]["max_cost"] = None  # the user asks for more than the usual cost
    if _MEMORY in given:
        for name in _PIECES.keys() & (derived - given):
            topic, field = name.split(".")
            topics[topic][field] = _PIECES[name]
    return RunSpec.model_validate(topics)


def _is_commit(revision: object) -> bool:
    return isinstance(revision, str) and re.fullmatch("[0-9a-f]{40}", revision) is not None


def _refuse_less(name: str, *, before: object, now: object) -> None:
    """Raise SpecError where a limit shrinks, since measurements would be dropped."""
    if name == "search.trials" and isinstance(before, int) and isinstance(now, int) and now < before:
        raise SpecError(
            f"--resume with {now} trials, but the run has {before}: trials can only grow. Pass another --out."
        )
    if name == "search.max_cost" and _cost(now) < _cost(before):
        limit = "no limit" if before is None else f"{before:g} R"
        raise SpecError(
            f"--resume with a cost of {now:g} R, but the run has {limit}: the cost can only grow. "
            "Pass another --out."
        )


def _cost(limit: object) -> float:
    return float(limit) if isinstance(limit, int | float) else math.inf


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
    if (kept := _decisions(run)) is not None:
        again = {decision.setting: decision for decision in derived if decision.setting in _PIECES}
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
    is_given = decision.setting in _PIECES and str(current[topic][field]) != decision.value
    return decision.setting in again or not is_given


def _decisions(run: RunDir) -> tuple[Decision, ...] | None:
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
