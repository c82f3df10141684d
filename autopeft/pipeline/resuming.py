"""`--resume`: restore a run's settings, with what the user may change of them."""

from __future__ import annotations

import logging
import math
import os
import re
from contextlib import suppress
from operator import attrgetter
from pathlib import Path

from autopeft.errors import SpecError
from autopeft.model import device_names
from autopeft.pipeline.keeping import PIECES, kept_decisions
from autopeft.records import ExecutionSpec, RunSpec, with_setting
from autopeft.store import RunDir

_MEMORY, _LENGTH = "execution.memory_bytes", "task.max_length"
# Where model, data and the user's files lie; fingerprints tell other ones apart.
PLACES = ("model.id", "data.source", "search.space", "search.baseline")
# What a resumed run may change: the deadline, places, how measurements are spread over processes and devices
# of one kind, the pieces of a step, whose gradients add up to the same, trackers, and the machine's price.
CHANGEABLE = frozenset(
    {
        *("search.max_time_seconds", "output.out", "output.report_to", "execution.gpu_price", *PLACES),
        *("execution.executor", "execution.workers", "execution.device", _MEMORY, *PIECES),
    }
)

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
        execution = spec.execution.model_copy(update=_spread_anew(stored.execution, given))
        spec = spec.model_copy(update={"execution": execution})
    _refuse_missing(spec)
    return spec


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
