"""`--resume`: what a run keeps on the disk, and its settings with what the user may change of them."""

from __future__ import annotations

import logging
import math
import os
import re
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from operator import attrgetter
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from autopeft.errors import RunDirError, SpecError, TrainingError
from autopeft.model.devices import device_names
from autopeft.records import (
    Decision,
    Fidelity,
    Measurement,
    Outcome,
    Plan,
    RunSpec,
    SiteScores,
    Status,
    from_json,
    to_json,
    with_setting,
)
from autopeft.store import RunDir, damaged, read_checked, seal_of, write_checked

_MEMORY, _LENGTH = "execution.memory_bytes", "task.max_length"
# Where model, data and the user's files lie; fingerprints tell other ones apart.
PLACES = ("model.id", "data.source", "search.space", "search.baseline")
# How a step is cut into pieces that fit into the memory, and what stands for a choice that is left open.
PIECES = {"execution.micro_batch_tokens": None, "execution.checkpointing": "auto"}
# What a resumed run may change: the deadline, places, how measurements are spread over processes and devices
# of one kind, the pieces of a step, whose gradients add up to the same, trackers, and the machine's price.
CHANGEABLE = frozenset(
    {
        *("search.max_time_seconds", "output.out", "output.report_to", "execution.gpu_price", *PLACES),
        *("execution.executor", "execution.workers", "execution.device", _MEMORY, *PIECES),
    }
)
Record = TypeVar("Record")

_DECISIONS = "decisions.json"  # in the state of a run: settings that it derived
_SCORES, _SECONDS = "scores.json", "scoring_seconds.json"  # there too

log = logging.getLogger(__name__)


def resumed(requested: RunSpec, given: frozenset[str]) -> RunSpec:
    """The stored settings of the run in `requested.output.out`, with what the user may change of them.

    These are `CHANGEABLE`, of which the deadline is closed in a finished run. The run chooses the pieces of a
    step again where it is given another memory. Raises SpecError where another setting in `given` (dotted
    names) differs, RunDirError where another version of autopeft began the run.
    """
    if requested.output.out is None:
        raise SpecError("--resume needs --out with the run directory to continue.")
    run = RunDir.open(requested.output.out)
    run.require_own_version()
    stored, free = run.read_spec(), CHANGEABLE
    if run.is_finished:
        free -= {"search.max_time_seconds"}
        log.info("The run in %s is finished; for other settings start a new one in another --out.", run.path)
    # A run directory may have been moved, so that run.yaml does not hold its path.
    spec = with_setting(stored, "output.out", requested.output.out)
    for name in sorted(given):
        before, value = (attrgetter(name)(each) for each in (spec, requested))
        if name == "model.revision" and _is_commit(before) and not _is_commit(value):
            continue  # the run keeps the commit that the branch or tag named when it started
        if name in ("execution.dtype", "execution.checkpointing") and value == "auto":
            continue  # the run keeps what it has chosen
        if value == before:
            continue
        # A length beyond the model's context is cut, and compared, later.
        is_cut = name == _LENGTH and (value or 0) > (before or math.inf)
        is_free = name in free and not (name in PLACES and before is None)
        if not (is_free or is_cut):
            raise SpecError(
                f"--resume keeps the settings of the run: {name} was {_shown(before)} and cannot become "
                f"{_shown(value)}. Leave it out, or pass another --out for a new run."
            )
        if name == "model.id" and "model.revision" not in given:
            spec = with_setting(spec, "model.revision", None)  # which was that of the other name
        spec = with_setting(spec, name, value)
    chosen = {decision.setting: decision.value for decision in kept_decisions(run) or ()}
    for name in PIECES.keys() & chosen.keys() - given:  # whatever run.yaml says
        kept = int(chosen[name]) if chosen[name].isdecimal() else chosen[name]
        spec = with_setting(spec, name, PIECES[name] if _MEMORY in given else kept)
    if spec.execution.executor != stored.execution.executor:
        # The new executor may take fewer workers.
        anew = {"workers": None, "device": device_names(stored.execution.device)[0]}
        for name in anew:
            if f"execution.{name}" not in given:
                spec = with_setting(spec, f"execution.{name}", anew[name])
    _refuse_missing(spec)
    return spec


def _shown(value: object) -> str:
    """The value of a setting as the user writes it."""
    if value is None:
        return "not set"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "empty"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _refuse_missing(spec: RunSpec) -> None:
    """Raise SpecError where model, data or a file of the user lie at a path that is not there."""
    for flag, source in (
        *(("--model", spec.model.id), ("--data", spec.data.source), ("--space", spec.search.space)),
        ("--baseline", spec.search.baseline),
    ):
        words = [word.strip() for word in (source or "").split(",")]
        missing = [path for path in words if _is_missing(path)]
        if source and missing and _is_missing(source):
            raise SpecError(
                f"The run needs {missing[0]}, which does not exist; put it back, or pass {flag} with the "
                "place to which it was moved."
            )


def _is_missing(path: str) -> bool:
    """Whether nothing is at a whole path; UnicodeEncodeError where this locale cannot write the path."""
    os.fsencode(path)
    with suppress(OSError, ValueError):  # too long, or no name of a file at all
        return Path(path).is_absolute() and not Path(path).exists()
    return False


def _is_commit(revision: object) -> bool:
    return isinstance(revision, str) and re.fullmatch("[0-9a-f]{40}", revision) is not None


def keep_scores(
    run: RunDir, compute: Callable[[], tuple[SiteScores, ...]]
) -> tuple[tuple[SiteScores, ...], float]:
    """The sensitivity scores of this run with the seconds that they took.

    Those on the disk are taken, so that ranks come out the same again. Damaged ones are computed anew, after
    a warning.
    """
    kept = _read_or_warn(tuple[SiteScores, ...], run.state / _SCORES)
    seconds = _read_or_warn(float, run.state / _SECONDS)
    if kept is not None:
        return kept, seconds or 0.0
    started = time.monotonic()
    scores = compute()
    seconds = time.monotonic() - started
    write_checked(run.state / _SECONDS, seconds)
    write_checked(run.state / _SCORES, [to_json(score) for score in scores])
    return scores, seconds


def keep_decisions(run: RunDir, spec: RunSpec, derived: tuple[Decision, ...]) -> tuple[Decision, ...]:
    """The settings that this run derived: those on the disk, since a resumed run reads their values.

    The pieces of a step may have been chosen again, or given.
    """
    if (kept := kept_decisions(run)) is not None:
        again = {decision.setting: decision for decision in derived if decision.setting in PIECES}
        derived = tuple(
            again.pop(decision.setting, decision)
            for decision in kept
            if decision.setting in again or _still_holds(decision, spec)
        )
        derived += tuple(again.values())
    if derived != kept:
        write_checked(run.state / _DECISIONS, [to_json(decision) for decision in derived])
    return derived


def _still_holds(decision: Decision, spec: RunSpec) -> bool:
    """Whether the setting of a decision on the disk may not change, or has the value that it gave it."""
    if decision.setting not in PIECES:
        return True
    return str(attrgetter(decision.setting)(spec)) == decision.value.replace(",", "")


def kept_decisions(run: RunDir) -> tuple[Decision, ...] | None:
    """The decisions on the disk; None before there are any, or after a warning where they are damaged."""
    return _read_or_warn(tuple[Decision, ...], run.state / _DECISIONS)


def _read_or_warn(kind: type[Record], path: Path) -> Record | None:
    """The content of a file in the state of a run; None where it is missing, or after a warning damaged."""
    remedy = "it is made anew"
    try:
        return from_json(kind, read_checked(path, remedy=remedy))
    except FileNotFoundError:
        return None
    except ValidationError:
        log.warning("%s", damaged(path, remedy=remedy))
    except RunDirError as error:
        log.warning("%s", error)
    return None


def logged_measurements(run: RunDir) -> dict[tuple[Plan, Fidelity], Measurement]:
    """Measurements of a stopped run; a full run only if its weights are as it left them."""
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
    """Copy the weights that a full run kept; TrainingError where the copy is not what it left."""
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
