"""`--resume`: restore a run's settings, with what the user may change of them."""

from __future__ import annotations

import math
import os
import re
from contextlib import suppress
from operator import attrgetter
from pathlib import Path

from autopeft.errors import SpecError
from autopeft.model import device_names
from autopeft.pipeline.keeping import DECIDED, PIECES, kept_decisions
from autopeft.records import ExecutionSpec, RunSpec
from autopeft.store import RunDir, whole_path

_COST, _EPOCHS = "search.max_cost", "task.epochs"
_MEMORY, _LENGTH = "execution.memory_bytes", "task.max_length"
# Where model, data and the user's files lie; fingerprints tell other ones apart.
PLACES = ("model.id", "data.source", "search.space", "search.baseline")
# What a resumed run may change: limits, places, how measurements are spread over processes and devices of one
# kind, the pieces of a step, whose gradients add up to the same, what logs them, and the machine's price.
CHANGEABLE = frozenset(
    {
        *("search.trials", "search.max_time_seconds", "search.max_cost"),
        *("output.out", "output.report_to", "execution.gpu_price"),
        *PLACES,
        *("execution.executor", "execution.workers", "execution.device"),
        *(_MEMORY, *PIECES),
    }
)


def resumed(requested: RunSpec, given: frozenset[str]) -> RunSpec:
    """The stored settings of the run in `requested.output.out`, with what the user may change of them.

    These are limits, of which trials and cost can only grow; where model, data and the user's files lie;
    executor, workers and device; memory and the pieces of a step, which the run chooses again where it is
    given another memory; trackers, and the price of the machine. What a limit of time decided is open again
    where another one is given before the first measurement. Raises SpecError where another setting in `given`
    (dotted names) differs, RunDirError where another version of autopeft began the run.
    """
    if requested.output.out is None:
        raise SpecError("--resume needs --out with the run directory to continue.")
    run = RunDir.open(requested.output.out)
    run.require_own_version()
    stored = run.read_spec()
    # A run directory may have been moved, so that run.yaml does not hold its path.
    topics = stored.model_dump()
    topics["output"]["out"] = requested.output.out
    chosen = {decision.setting: decision.value for decision in kept_decisions(run) or ()}
    unset = RunSpec().model_dump()
    for topic, field in (name.split(".") for name in _open_again(run, given)):
        topics[topic][field] = unset[topic][field]
    for name in sorted(given):
        topic, field = name.split(".")
        value = getattr(getattr(requested, topic), field)
        if name == "model.revision" and _is_commit(topics[topic][field]) and not _is_commit(value):
            continue  # the run keeps the commit that the branch or tag named when it started
        if name in ("execution.dtype", "execution.checkpointing") and value == "auto":
            continue  # the run keeps what it has chosen
        if name == _LENGTH and (value or 0) > (topics[topic][field] or math.inf):
            topics[topic][field] = value  # what is beyond the model's context is cut, and compared, later
            continue
        if isinstance(value, str) and value == whole_path(str(topics[topic][field])):
            continue  # an older run has relative paths
        is_free = name in CHANGEABLE and not (name in PLACES and topics[topic][field] is None)
        if not is_free and value != topics[topic][field]:
            raise SpecError(
                f"--resume keeps the settings of the run: {name} was {_shown(topics[topic][field])} and "
                f"cannot become {_shown(value)}. Only --trials and --max-cost (which can grow), --max-time, "
                "--data, --model, --space and --baseline (at another place), --executor, "
                "--workers, --device, --memory, --micro-batch-tokens, --checkpointing, --gpu-price and "
                "--report-to may change; pass another --out for a new run."
            )
        _refuse_less(name, before=topics[topic][field], now=value)
        if name == "model.id" and "model.revision" not in given and value != topics[topic][field]:
            topics["model"]["revision"] = None  # which was that of the other name
        topics[topic][field] = value
    if "search.trials" in given and _COST in chosen.keys() - given:
        topics["search"]["max_cost"] = None  # the user asks for more than the usual cost
    for name in PIECES.keys() & chosen.keys() - given:  # whatever run.yaml says
        topic, field = name.split(".")
        topics[topic][field] = PIECES[name] if _MEMORY in given else chosen[name]
    if topics["execution"]["executor"] != stored.execution.executor:
        topics["execution"] |= _spread_anew(stored.execution, given)
    spec = RunSpec.model_validate(topics)
    _refuse_missing(spec)
    return spec


def settled(run: RunDir, given: frozenset[str]) -> frozenset[str]:
    """The dotted names of the settings that a resumed run keeps; `given` are those that the user set."""
    anew = _open_again(run, given)
    if not anew:
        return given | DECIDED
    stored, usual = run.read_spec(), RunSpec()
    kept = {name for name in DECIDED - anew if attrgetter(name)(stored) != attrgetter(name)(usual)}
    if _COST not in anew:  # it was left without a limit since the user gave the trials
        kept.add("search.trials")
    return given | kept - {_EPOCHS}


def _open_again(run: RunDir, given: frozenset[str]) -> frozenset[str]:
    """The settings that a new `--max-time` decides anew: those of a shortened run without measurements."""
    chosen = {decision.setting for decision in kept_decisions(run) or ()}
    if run.is_begun or "search.max_time_seconds" not in given or "task.max_steps" not in chosen:
        return frozenset()
    return DECIDED.intersection(chosen) - {_EPOCHS}


def _shown(value: object) -> str:
    """The value of a setting as the user writes it."""
    if value is None:
        return "not set"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "empty"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _spread_anew(stored: ExecutionSpec, given: frozenset[str]) -> dict[str, object]:
    """Workers and device for another executor, where the user gives none: it may take fewer workers."""
    anew = {"workers": None, "device": device_names(stored.device)[0]}
    return {name: value for name, value in anew.items() if f"execution.{name}" not in given}


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
