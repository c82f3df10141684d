"""Compare a resumed run with the run that was stopped: what must be the same, and what may change."""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import sys
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any, cast

from autopeft.errors import RunDirError, SpecError
from autopeft.plugins import is_own_metric
from autopeft.setup.build import Prepared
from autopeft.space import Space
from autopeft.store import STATE, RunDir
from autopeft.store.state import RunState, differences, read_state
from autopeft.types import SETTINGS, VERSION, Arm, Plan, RunSpec, digest_of, to_json, with_setting

# What a resumed run may change: the deadline, where model, data and the user's files are (digests of their
# content are compared), how measurements are spread over processes and devices of one kind, the pieces of a
# step, which have gradients that add up to the same, trackers, and the machine's price.
_CHANGEABLE = frozenset(
    {
        *("search.max_time_seconds", "output.out", "output.report_to"),
        *("model.id", "model.revision", "data.source", "search.space", "search.baseline"),
        *("execution.executor", "execution.workers", "execution.device", "execution.gpu_price"),
        *("execution.memory_bytes", "execution.micro_batch_tokens", "execution.checkpointing"),
    }
)
# Numbers, rows or proposals depend on their versions.
_LIBRARIES = ("datasets", "numpy", "optuna", "peft", "tokenizers", "torch", "transformers")
_COMMIT_LENGTH = 40

log = logging.getLogger(__name__)


def resumed(requested: RunSpec) -> RunSpec:
    """Read the settings of the run in `requested.output.out`, with the changes that the user may make.

    The user may change `_CHANGEABLE`; in a finished run all of these but the deadline. Settings that are not
    set keep the run's values.

    Raises:
        SpecError: The user set another value for a setting that cannot change.
        RunDirError: There is no run, or its state is damaged.
    """
    if requested.output.out is None:
        raise SpecError("--resume needs --out with the run directory to continue.")
    run, explicit = RunDir.open(requested.output.out), requested.explicit
    changeable = _CHANGEABLE - ({"search.max_time_seconds"} if run.is_finished else set())
    # A run directory may be a stranger's, whose trackers would log to the user's account.
    spec = run.read_spec().model_copy(update={"output": requested.output})
    for name in sorted(explicit):
        old, value = (attrgetter(name)(each) for each in (spec, requested))
        is_branch = name == "model.revision" and len(value or "") < _COMMIT_LENGTH
        if value in (old, "auto") or is_branch:  # the run keeps what it chose, and the commit of a branch
            continue
        if name not in changeable:
            raise SpecError(
                f"--resume keeps the settings of the run: {name} was {old} and cannot become {value}. "
                "Leave it out, or pass another --out for a new run."
            )
        if name == "model.id" and "model.revision" not in explicit:
            spec = with_setting(spec, "model.revision", None)  # it was a revision of the old model
        spec = with_setting(spec, name, value)
    return spec


def begin(
    run: RunDir, prepared: Prepared, *, requested: Space, user_plan: tuple[Arm, Plan] | None
) -> RunState:
    """Collect what the measurements depend on, or compare it with what a resumed run wrote.

    Raises RunDirError if something differs, or if there are measurements without a `state.json`.
    """
    settings = to_json(prepared.spec)
    compared = [name.split(".") for name in SETTINGS if name not in _CHANGEABLE]
    start = {
        **loaded_facts(prepared),
        **{f"{topic}.{field}": settings[topic][field] for topic, field in compared},
        "search space": digest_of(requested.model_dump(mode="json")),
        "plan of --baseline": digest_of(None if user_plan is None else to_json(user_plan[1])),
        "file of --metric": _metric_digest(prepared.spec.task.metric),
    }
    state = read_state(run)
    if state is None and run.measurements.load():
        raise RunDirError(
            f"{run.state / STATE} is missing, so autopeft cannot check that data and model match the "
            "measurements; restore the file, or start again with another --out."
        )
    if state is None:
        current = RunState(start=start, decisions=prepared.decisions)
    elif differing := differences(state.start, start):
        raise RunDirError(f"{run.path} cannot be resumed: {differing}; restore it, or pass another --out.")
    else:
        decisions = {each.setting: each for each in (*state.decisions, *prepared.decisions)}
        current = replace(state, decisions=tuple(decisions.values()))
    for derived in current.decisions:
        log.info("%s", derived)
    return current


def loaded_facts(prepared: Prepared) -> dict[str, Any]:
    """Collect what a run loaded, by name: fingerprints of data and weights, the device, versions."""
    base = prepared.base
    return {
        "data_fingerprint": prepared.data.fingerprint,
        **base.weight_digests,
        "device": base.device.type,
        "attention": getattr(cast(Any, base.module).config, "_attn_implementation", None),
        "autopeft": VERSION,
        **{name: importlib.metadata.version(name) for name in _LIBRARIES},
    }


def _metric_digest(metric: str | None) -> str | None:
    """Digest the file of the user's own metric, which is imported; None for other metrics."""
    module = sys.modules.get(str(metric).partition(":")[0]) if is_own_metric(metric) else None
    path = getattr(module, "__file__", None)  # modules in C may have none
    return None if path is None else hashlib.sha256(Path(path).read_bytes()).hexdigest()[:10]
