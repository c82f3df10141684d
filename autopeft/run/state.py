"""The state of a run on the disk: what its measurements depend on, and how `--resume` goes on with it."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar, cast

import peft
import torch
import transformers
from pydantic import ValidationError

from autopeft.errors import NO_ROOM, RunDirError, SpecError, TrainingError
from autopeft.model.devices import device_names
from autopeft.records import (
    SETTINGS,
    VERSION,
    Arm,
    Decision,
    Fidelity,
    Measurement,
    Outcome,
    Plan,
    RunSpec,
    SiteScores,
    Status,
    digest_of,
    from_json,
    to_json,
    with_setting,
)
from autopeft.run.prepare import Prepared
from autopeft.space import Space
from autopeft.store import (
    START,
    RunDir,
    damaged,
    read_checked,
    save_processor,
    seal_of,
    sha256_of,
    write_checked,
)

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


_BASE, _DATA = "base_sha256", "data_fingerprint"
_LABEL_NAMES = frozenset({"config.id2label", "config.label2id"})  # which are as long as there are labels
_DEVICE = "device"
_MISSING = "missing"
_SHOWN = 3  # differences that an error names; chosen by hand
# Settings that may differ between a start and its resumption: those that the user may change, and what the
# fingerprint of the weights covers.
_FREE = CHANGEABLE | {"model.revision"}
# Of configs and tokenizers: they name a place or a version, or transformers fills them in while loading.
_VOLATILE = frozenset(
    "_name_or_path name_or_path architectures transformers_version dtype torch_dtype truncation "
    "padding".split()
)


def note_start(
    run: RunDir, prepared: Prepared, *, requested: Space, user_plan: tuple[Arm, Plan] | None
) -> None:
    """Store what the measurements depend on, or compare it; RunDirError names what differs."""
    path, content = run.state / START, to_json(prepared.spec)
    now = {
        **loaded_facts(prepared),
        **{name: content[name.split(".")[0]][name.split(".")[1]] for name in SETTINGS if name not in _FREE},
        "search space": digest_of(requested.model_dump(mode="json")),
        "plan of --baseline": digest_of(None if user_plan is None else to_json(user_plan[1])),
    }
    if path.is_file():
        before = _read_start(run)
        differing = [name for name in sorted(before.keys() | now) if before.get(name) != now.get(name)]
        if differing:
            raise RunDirError(
                f"{run.path} was measured with {_listed(differing, before, now, whose='now it is')}; put it "
                "back as it was, or pass another --out."
            )
    elif run.is_begun:
        raise RunDirError(
            f"{path} is missing, so that nothing tells whether data and model are those of the measurements; "
            "put it back, or start again with another --out."
        )
    else:
        write_checked(path, now)


def check_base(run: RunDir, prepared: Prepared) -> None:
    """Raise TrainingError where the weights of the base model are no longer those of the run's start.

    After each trial a part of them is compared; this reads all of them.
    """
    if prepared.base.sha256() != _read_start(run)[_BASE]:
        raise TrainingError(
            f"The weights of {prepared.base.name} changed during the run, so that its measurements cannot be "
            "trusted; this is a bug, please report it, and start again with another --out."
        )


def _read_start(run: RunDir) -> dict[str, Any]:
    path, remedy = run.state / START, "start again with another --out"
    content = read_checked(path, remedy=remedy)
    if not isinstance(content, dict) or _BASE not in content:
        raise damaged(path, remedy=remedy)
    return content


def facts_for_workers(run: RunDir, prepared: Prepared) -> dict[str, Any]:
    """The `loaded_facts` of a search, with the digest of weights that its start was noted or compared with.

    A full digest takes 21 seconds for 7 billion weights, and `check_base` makes one at the end.
    """
    noted = _read_start(run)[_BASE] if (run.state / START).is_file() else None
    return loaded_facts(prepared, base_sha256=noted)


def start_sha256(run: RunDir) -> str | None:
    """The checksum of what a run noted at its start; None where it is not there."""
    path = run.state / START
    return sha256_of(path) if path.is_file() else None


def differences(before: Mapping[str, Any], now: Mapping[str, Any], *, whose: str) -> str:
    """What differs between the `loaded_facts` of two processes, in words; empty where nothing does.

    `whose` are the facts of `now`, in words.
    """
    names = [name for name in sorted(before.keys() | now) if before.get(name) != now.get(name)]
    return _listed(names, before, now, whose=whose)


def _listed(names: Sequence[str], before: Mapping[str, Any], now: Mapping[str, Any], *, whose: str) -> str:
    """The first differences in words.

    Other data alone where they differ, or the settings that make them so: the labels decide the head, and
    with it the weights and the config.
    """
    if _DATA in names and not (names := [name for name in names if name in SETTINGS]):
        seen = f"{_DATA} {before.get(_DATA, _MISSING)}, {whose} {now.get(_DATA, _MISSING)}"
        return f"{seen} (other rows, labels or splits in its data files)"
    others = [name for name in names if name not in _LABEL_NAMES]
    names = others if len(others) == len(names) else [*others, "label names"]
    pairs = [
        f"{name} {before.get(name, _MISSING)}, {whose} {now.get(name, _MISSING)}"
        if name != "label names"
        else "other label names of the model"
        for name in names[:_SHOWN]
    ]
    more = f" and {len(names) - _SHOWN} more differences" if len(names) > _SHOWN else ""
    return "; ".join(pairs) + more


def loaded_facts(prepared: Prepared, *, base_sha256: str | None = None) -> dict[str, Any]:
    """Fingerprints of data and model, the model's config, the kind of device, and versions, by name.

    `base_sha256` is the digest of the weights where it is known; None reads them all.
    """
    config = json.loads(cast(Any, prepared.base.module.config).to_json_string(use_diff=False))
    return {
        _DATA: prepared.data.fingerprint,
        _BASE: base_sha256 or prepared.base.sha256(),
        **{f"config.{name}": value for name, value in config.items() if name not in _VOLATILE},
        **dict(_processor_files(prepared.base.tokenizer)),
        _DEVICE: prepared.base.device.type,
        "autopeft": VERSION,
        "peft": peft.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def _processor_files(processor: Any) -> Iterator[tuple[str, str]]:
    """A fingerprint of each file that a tokenizer or image processor saves, such as `tokenizer.json`."""
    if not hasattr(processor, "save_pretrained"):
        return
    try:
        with tempfile.TemporaryDirectory(prefix="autopeft-", ignore_cleanup_errors=True) as folder:
            save_processor(processor, folder)
            for path in sorted(Path(folder).rglob("*")):
                if path.is_file():
                    yield path.relative_to(folder).as_posix(), _file_digest(path)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise RunDirError(
            f"There is no room for the files of the tokenizer in {tempfile.gettempdir()}; free some, or set "
            "TMPDIR to a larger folder."
        ) from error


def _file_digest(path: Path) -> str:
    """16 hexadecimal digits over a file's content; of a JSON object without what may change by itself."""
    if path.suffix == ".json" and isinstance(content := json.loads(path.read_bytes()), dict):
        kept = {name: value for name, value in content.items() if name not in _VOLATILE}
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]
    return sha256_of(path)[:16]
