"""What a run keeps on the disk to go on where it was stopped: `state.json` and the log of measurements."""

from __future__ import annotations

import importlib.metadata
import logging
import math
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from autopeft.errors import RunDirError, SpecError, TrainingError
from autopeft.model.devices import device_names
from autopeft.plugins import is_own_metric
from autopeft.run.base_facts import base_facts
from autopeft.run.prepare import Prepared
from autopeft.space import Space
from autopeft.store import (
    STATE,
    RunDir,
    damaged,
    read_checked,
    seal_of,
    sha256_of,
    write_checked,
)
from autopeft.types import (
    SETTINGS,
    VERSION,
    Arm,
    Decision,
    Fidelity,
    Measurement,
    Plan,
    RunSpec,
    Status,
    TargetScores,
    digest_of,
    from_json,
    to_json,
    with_setting,
)

_MEMORY, _LENGTH = "execution.memory_bytes", "task.max_length"
# Where model, data and the user's files lie, with their flags; fingerprints tell other ones apart.
PLACES = {
    "model.id": "--model",
    "data.source": "--data",
    "search.space": "--space",
    "search.baseline": "--baseline",
}
# How a step is cut into pieces that fit into the memory, and what stands for a choice that is left open.
PIECES = {"execution.micro_batch_tokens": None, "execution.checkpointing": "auto"}
# What a resumed run may change: the deadline, places, how measurements are spread over processes and devices
# of one kind, the pieces of a step, whose gradients add up to the same, trackers, the machine's price, and
# the function that evaluates finished adapters.
CHANGEABLE = frozenset(
    {
        *("search.max_time_seconds", "search.evaluate", "output.out", "output.report_to"),
        *("execution.gpu_price", *PLACES),
        *("execution.executor", "execution.workers", "execution.device", _MEMORY, *PIECES),
    }
)
_BASE, _DATA, _WEIGHTS = "base_sha256", "data_fingerprint", "weights"
# On whose versions numbers, rows or proposals depend.
_LIBRARIES = ("datasets", "numpy", "optuna", "peft", "tokenizers", "torch", "transformers")
_MISSING = "missing"
_SHOWN = 3  # differences that an error names; chosen by hand

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RunState:
    """The content of `state.json`.

    `start` is what the measurements depend on, by name: settings, data, weights, versions. `decisions` are
    the settings that the run derived. `scores` is None before the sensitivity of the target modules is
    measured. `metric_file` digests the file of the user's own metric.
    """

    start: dict[str, Any]
    decisions: tuple[Decision, ...] = ()
    scores: tuple[TargetScores, ...] | None = None
    scoring_seconds: float = 0.0
    metric_file: str | None = None

    def start_of(self, measurement: Measurement) -> str:
        """Digest what a measurement depends on beside plan and fidelity."""
        of_metric = self.metric_file if measurement.metric is not None else None
        return digest_of(self.start if of_metric is None else {**self.start, "file of --metric": of_metric})

    @property
    def weights(self) -> dict[str, dict[str, str]]:
        """Digests of the weights of the base model at the start, which `weight_digests` gave."""
        return dict(self.start[_WEIGHTS])


def read_state(run: RunDir) -> RunState | None:
    """Read `state.json`; None if there is none. Raises RunDirError if it is damaged."""
    path, remedy = run.state / STATE, "start again with another --out"
    try:
        return from_json(RunState, read_checked(path, remedy=remedy))
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise damaged(path, remedy=remedy) from error


def write_state(run: RunDir, state: RunState) -> None:
    """Write `state.json` with its checksum."""
    write_checked(run.state / STATE, to_json(state))


def begin(
    run: RunDir, prepared: Prepared, *, requested: Space, user_plan: tuple[Arm, Plan] | None
) -> RunState:
    """Write what the measurements depend on to `state.json`, or compare it with what a resumed run wrote.

    Raises:
        RunDirError: Something differs, or there are measurements without a `state.json`.
    """
    settings = to_json(prepared.spec)
    # A commit may be named in many ways; the digest of the weights covers it.
    compared = [name.split(".") for name in SETTINGS if name not in {*CHANGEABLE, "model.revision"}]
    start = {
        **loaded_facts(prepared),
        **{f"{topic}.{field}": settings[topic][field] for topic, field in compared},
        "search space": digest_of(requested.model_dump(mode="json")),
        "plan of --baseline": digest_of(None if user_plan is None else to_json(user_plan[1])),
    }
    state = read_state(run)
    if state is None:
        if run.is_begun:
            raise RunDirError(
                f"{run.state / STATE} is missing, so that nothing tells whether data and model are those of "
                "the measurements; put it back, or start again with another --out."
            )
        current = RunState(start=start, decisions=prepared.decisions)
    elif differing := differences(state.start, start, whose="now it is"):
        raise RunDirError(
            f"{run.path} was measured with {differing}; put it back as it was, or pass another --out."
        )
    else:
        current = replace(state, decisions=_with_new_pieces(state.decisions, prepared))
    current = replace(current, metric_file=file_digest(prepared.spec.task.metric))
    if current != state:
        write_state(run, current)
    for derived in current.decisions:
        log.info("%s", derived)
    return current


def file_digest(metric: str | None) -> str | None:
    """Digest the file of the user's own metric, which is imported; None for other metrics."""
    module = sys.modules.get(str(metric).partition(":")[0]) if is_own_metric(metric) else None
    path = getattr(module, "__file__", None)  # modules in C may have none
    return None if path is None else sha256_of(path)


def _with_new_pieces(kept: tuple[Decision, ...], prepared: Prepared) -> tuple[Decision, ...]:
    """Replace decisions on the pieces of a step by this call's; drop one whose setting the user sets now."""
    values = {name: str(attrgetter(name)(prepared.spec)) for name in PIECES}
    stays = (d for d in kept if d.setting not in PIECES or values[d.setting] == d.value.replace(",", ""))
    pieces = (decision for decision in prepared.decisions if decision.setting in PIECES)
    return tuple({decision.setting: decision for decision in (*stays, *pieces)}.values())


def with_scores(run: RunDir, state: RunState, score: Callable[[], tuple[TargetScores, ...]]) -> RunState:
    """Measure and write the sensitivity of the targets, unless a resumed run did: its ranks stay the same."""
    if state.scores is not None:
        return state
    started = time.monotonic()
    scores = score()
    state = replace(state, scores=scores, scoring_seconds=time.monotonic() - started)
    write_state(run, state)
    return state


def check_base(state: RunState, prepared: Prepared) -> None:
    """Raise TrainingError if the weights of the base model changed since the run's start.

    The bench compares a part of the weights after each trial; this function reads all of them.
    """
    if prepared.base.sha256() != state.start[_BASE]:
        raise TrainingError(
            f"The weights of {prepared.base.name} changed during the run, so that its measurements cannot be "
            "trusted; this is a bug, please report it, and start again with another --out."
        )


def state_sha256(run: RunDir) -> str | None:
    """Give the checksum of `state.json`, which tells runs apart; None if there is no such file."""
    path = run.state / STATE
    return sha256_of(path) if path.is_file() else None


def differences(noted: Mapping[str, Any], current: Mapping[str, Any], *, whose: str) -> str:
    """Say what differs between the `loaded_facts` of two processes; "" if nothing does.

    `whose` introduces the values of `current`, such as "now it is". If the data differ, only the settings
    that differ are named, or else the fingerprints: other labels change head, weights and config as well.
    """
    compared = (noted.keys() | current) - {_WEIGHTS}  # of which _BASE is the digest
    names = [name for name in sorted(compared) if noted.get(name) != current.get(name)]
    if _DATA in names and not (names := [name for name in names if name in SETTINGS]):
        fingerprints = f"{_DATA} {noted.get(_DATA, _MISSING)}, {whose} {current.get(_DATA, _MISSING)}"
        return f"{fingerprints} (other rows, labels or splits in its data files)"
    pairs = [f"{name} {noted.get(name, _MISSING)}, {whose} {current.get(name, _MISSING)}" for name in names]
    more = f" and {len(pairs) - _SHOWN} more differences" if len(pairs) > _SHOWN else ""
    return "; ".join(pairs[:_SHOWN]) + more


def loaded_facts(
    prepared: Prepared, *, weights: Mapping[str, Mapping[str, str]] | None = None
) -> dict[str, Any]:
    """Collect what a run loaded, by name: fingerprints of data and model, its config, the device, versions.

    `weights` are the digests of the model's weights; None computes them (21 seconds for 7 billion weights).
    """
    weights = weights or prepared.base.weight_digests()
    return {
        _DATA: prepared.data.fingerprint,
        _BASE: digest_of(weights),
        _WEIGHTS: weights,
        **base_facts(prepared.base.module, prepared.base.tokenizer, weights={}),
        "device": prepared.base.device.type,
        "attention": getattr(prepared.base.module.config, "_attn_implementation", None),
        "autopeft": VERSION,
        **{name: importlib.metadata.version(name) for name in _LIBRARIES},
    }


def resumed(requested: RunSpec, explicit: frozenset[str]) -> RunSpec:
    """Read the settings of the run in `requested.output.out`, with the changes that the user may make.

    The user may change `CHANGEABLE`; in a finished run all of these but the deadline. With another `--memory`
    the run chooses the pieces of a step again. Settings that are not `explicit` in this call keep the run's
    values.

    Raises:
        SpecError: The user set another value for a setting that cannot change, or a path is missing.
        RunDirError: There is no run, another version of autopeft began it, or its state is damaged.
    """
    if requested.output.out is None:
        raise SpecError("--resume needs --out with the run directory to continue.")
    run = RunDir.open(requested.output.out)
    run.require_own_version()
    stored, changeable = run.read_spec(), CHANGEABLE
    if run.is_finished:
        changeable -= {"search.max_time_seconds"}
        log.info("The run in %s is finished; for other settings start a new one in another --out.", run.path)
    # A run directory may have been moved, or be a stranger's, whose trackers would log to the user's account.
    spec = stored.model_copy(update={"output": requested.output})
    if unnamed := set(stored.output.report_to) - set(requested.output.report_to):
        log.warning("Trackers of run.yaml are not started without --report-to %s.", ",".join(sorted(unnamed)))
    for name in sorted(explicit):
        old, value = (attrgetter(name)(each) for each in (spec, requested))
        if name == "model.revision" and _is_commit(old) and not _is_commit(value):
            continue  # the run keeps the commit that the branch or tag named when it started
        if name in ("execution.dtype", "execution.checkpointing") and value == "auto":
            continue  # the run keeps the value that it chose
        if value == old:
            continue
        # `prepare` cuts a length beyond the model's context, and `begin` compares the cut length.
        is_cut = name == _LENGTH and (value or 0) > (old or math.inf)
        may_change = name in changeable and not (name in PLACES and old is None)
        if not (may_change or is_cut):
            raise SpecError(
                f"--resume keeps the settings of the run: {name} was {_shown(old)} and cannot become "
                f"{_shown(value)}. Leave it out, or pass another --out for a new run."
            )
        if name == "model.id" and "model.revision" not in explicit:
            spec = with_setting(spec, "model.revision", None)  # it was a revision of the old model
        spec = with_setting(spec, name, value)
    state = read_state(run)
    derived = {decision.setting: decision.value for decision in state.decisions} if state else {}
    for name in PIECES.keys() & derived.keys() - explicit:  # the state is right where run.yaml differs
        piece = int(derived[name]) if derived[name].isdecimal() else derived[name]
        spec = with_setting(spec, name, PIECES[name] if _MEMORY in explicit else piece)
    if spec.execution.executor != stored.execution.executor:  # it may take fewer workers
        for field, value in (("workers", None), ("device", device_names(stored.execution.device)[0])):
            if f"execution.{field}" not in explicit:
                spec = with_setting(spec, f"execution.{field}", value)
    _require_places(spec)
    return spec


def _shown(value: object) -> str:
    """Write the value of a setting as the user does."""
    if value is None:
        return "not set"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "empty"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _require_places(spec: RunSpec) -> None:
    """Raise SpecError if the path of the model, the data or a file of the user does not exist."""
    for name, flag in PLACES.items():
        source = attrgetter(name)(spec) or ""
        missing = [path for path in map(str.strip, source.split(",")) if _is_missing(path)]
        if missing and _is_missing(source):
            raise SpecError(
                f"The run needs {missing[0]}, which does not exist; put it back, or pass {flag} with the "
                "place to which it was moved."
            )


def _is_missing(path: str) -> bool:
    """Whether a path is absolute and nothing is there; UnicodeEncodeError if the locale cannot encode it."""
    os.fsencode(path)
    with suppress(OSError, ValueError):  # too long, or no name of a file at all
        return Path(path).is_absolute() and not Path(path).exists()
    return False


def _is_commit(revision: object) -> bool:
    return isinstance(revision, str) and re.fullmatch("[0-9a-f]{40}", revision) is not None


def logged_measurements(run: RunDir) -> dict[tuple[Plan, Fidelity], Measurement]:
    """Read the measurements of a stopped run; warn of one that cannot be used, and leave it out."""
    measured, state = {}, read_state(run)
    for measurement, seal, start in run.measurements.load_sealed():  # which warns of damaged lines
        plan, fidelity = measurement.plan, measurement.fidelity
        if state is not None and start not in (None, state.start_of(measurement)):
            text = "Plan %s is measured again; its measurement is of another run or file of --metric."
            log.warning(text, plan.digest)
        elif not _keeps_weights(measurement) or seal_of(run.weights(plan, fidelity.seed)) == seal is not None:
            measured[plan, fidelity] = measurement
        else:
            log.warning(
                "The kept weights of plan %s, seed %d, are missing or damaged; they are trained again.",
                plan.digest,
                fidelity.seed,
            )
    return measured


def _keeps_weights(measurement: Measurement) -> bool:
    return measurement.fidelity.split == "confirm" and measurement.status is Status.COMPLETE


def record(run: RunDir, state: RunState, measurement: Measurement) -> None:
    """Add a measurement to the log, and remove the state of its training.

    A measurement that failed by the machine's fault is not logged, so that `--resume` tries it again.
    """
    if measurement.status.is_of_machine:
        return
    folder = run.weights(measurement.plan, measurement.fidelity.seed)
    seal = seal_of(folder) if _keeps_weights(measurement) else None
    run.measurements.append(measurement, weights=seal, start=state.start_of(measurement))
    shutil.rmtree(run.under_way(measurement.plan, measurement.fidelity), ignore_errors=True)
