"""What `--resume` needs: the settings of the run, what it stood on, and what it measured."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable

import peft
import torch

import autopeft
from autopeft.errors import RunDirError, SpecError
from autopeft.pipeline.prepare import Prepared
from autopeft.records import (
    Fidelity,
    Measurement,
    Plan,
    RunSpec,
    SiteScores,
    Status,
    from_json,
    to_json,
)
from autopeft.store import RunDir, write_text

_EXTENDABLE = frozenset({"search.trials", "search.max_time_seconds", "search.max_cost", "output.out"})


def resumed(asked: RunSpec, given: frozenset[str]) -> RunSpec:
    """The settings of the run that is continued, with more trials, time or cost where asked."""
    if asked.output.out is None:
        raise SpecError("--resume needs --out with the run directory to continue.")
    stored = RunDir.open(asked.output.out).read_spec()
    # run.yaml does not say where it lies.
    topics = {**stored.model_dump(), "output": asked.output.model_dump()}
    for name in sorted(given):
        topic, field = name.split(".")
        value = getattr(getattr(asked, topic), field)
        if name == "model.revision" and _is_commit(topics[topic][field]) and not _is_commit(value):
            continue  # what that name stood for when the run began
        if name not in _EXTENDABLE and value != topics[topic][field]:
            raise SpecError(
                f"--resume continues the run as it was asked: {name} was {topics[topic][field]!r} and cannot "
                f"become {value!r}; only trials, time and cost can grow. Pass another --out for a new run."
            )
        _refuse_less(name, before=topics[topic][field], now=value)
        topics[topic][field] = value
    return RunSpec.model_validate(topics)


def _is_commit(revision: object) -> bool:
    return isinstance(revision, str) and re.fullmatch("[0-9a-f]{40}", revision) is not None


def _refuse_less(name: str, *, before: object, now: object) -> None:
    """A run is continued with as many trials or more: fewer would drop what was measured."""
    if name == "search.trials" and isinstance(before, int) and isinstance(now, int) and now < before:
        raise SpecError(
            f"--resume with {now} trials, but the run has {before}: they can only grow. Pass another --out."
        )
    if name == "search.max_cost" and _cost(now) < _cost(before):
        limit = "no limit" if before is None else f"{before:g} R"
        raise SpecError(
            f"--resume with a cost of {now:g} R, but the run has {limit}: it can only grow. "
            "Pass another --out."
        )


def _cost(limit: object) -> float:
    return float(limit) if isinstance(limit, int | float) else math.inf


def note_start(run: RunDir, prepared: Prepared) -> int:
    """Remember what was measured on; a resumed run must stand on the same data, weights and code.

    Returns:
        The number of trials that the run began with.
    """
    path = run.state / "start.json"
    now = {
        "data_fingerprint": prepared.data.fingerprint,
        "base_sha256": prepared.bench.base_sha256,
        "general_text": prepared.general.fingerprint if prepared.general else None,
        "autopeft": autopeft.__version__,
        "peft": peft.__version__,
        "torch": torch.__version__,
    }
    start = {**now, "trials": prepared.spec.search.trials}
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else start
    for name, value in now.items():
        if before.get(name) != value:
            raise RunDirError(
                f"{run.path} was measured with {name} {before.get(name)}, now it is {value}; "
                "put it back as it was, or pass another --out."
            )
    write_text(path, json.dumps(before) + "\n")
    return int(before["trials"])


def keep_scores(run: RunDir, compute: Callable[[], tuple[SiteScores, ...]]) -> tuple[SiteScores, ...]:
    """The sensitivity scores of this run: those on the disk, so that ranks come out the same again."""
    path = run.state / "scores.json"
    if path.is_file():
        return from_json(tuple[SiteScores, ...], json.loads(path.read_text(encoding="utf-8")))
    scores = compute()
    write_text(path, json.dumps([to_json(score) for score in scores]) + "\n")
    return scores


def known_measurements(run: RunDir) -> dict[tuple[Plan, Fidelity], Measurement]:
    """What an earlier run measured; a confirmation counts only if its weights are still there.

    Failed runs are measured again: versions before 0.2.0 stored diverged runs with the status FAIL.
    """
    kept = {}
    for measurement in run.load_measurements().values():
        if measurement.status is Status.FAIL:
            continue
        plan, fidelity = measurement.plan, measurement.fidelity
        needs_weights = fidelity.split == "confirm" and measurement.status is Status.COMPLETE
        if not needs_weights or run.weights(plan, fidelity.seed).is_dir():
            kept[plan, fidelity] = measurement
    return kept


def record(run: RunDir, measurement: Measurement) -> None:
    """Keep what would come out the same again; a failure of the machine is tried anew on resume."""
    if measurement.status is not Status.FAIL:
        run.append_measurement(measurement)
