"""Compare a resumed run with the run that was stopped: what must be the same, and what may change."""

from __future__ import annotations

import importlib.metadata
import logging
import math
import re
from dataclasses import replace
from operator import attrgetter
from typing import Any, cast

from autopeft.errors import RunDirError, SpecError
from autopeft.model.devices import device_names
from autopeft.setup.build import Prepared
from autopeft.space import Space
from autopeft.store import STATE, RunDir
from autopeft.store.state import RunState, differences, file_digest, read_state, write_state
from autopeft.types import (
    SETTINGS,
    VERSION,
    Arm,
    Decision,
    Plan,
    RunSpec,
    digest_of,
    to_json,
    with_setting,
)

_MEMORY, _LENGTH = "execution.memory_bytes", "task.max_length"
# How a step is cut into pieces that fit into the memory, and the value of each setting if it is left open.
PIECES = {"execution.micro_batch_tokens": None, "execution.checkpointing": "auto"}
# Numbers, rows or proposals depend on their versions.
_LIBRARIES = ("datasets", "numpy", "optuna", "peft", "tokenizers", "torch", "transformers")
_WITHOUT_EFFECT = ("_name_or_path", "transformers_version", "dtype")  # of a model's config
log = logging.getLogger(__name__)


# What a resumed run may change: the deadline, where model, data and the user's files are, how measurements
# are spread over processes and devices of one kind, the pieces of a step, whose gradients add up to the same,
# trackers, the machine's price, and the function that evaluates finished adapters.
CHANGEABLE = frozenset(
    {
        *("search.max_time_seconds", "search.evaluate", "output.out", "output.report_to"),
        *("model.id", "data.source", "search.space", "search.baseline", "execution.gpu_price"),
        *("execution.executor", "execution.workers", "execution.device", _MEMORY, *PIECES),
    }
)


def begin(
    run: RunDir, prepared: Prepared, *, requested: Space, user_plan: tuple[Arm, Plan] | None
) -> RunState:
    """Write what the measurements depend on to `state.json`, or compare it with what a resumed run wrote.

    Raises:
        RunDirError: Something differs, or there are measurements without a `state.json`.
    """
    settings = to_json(prepared.spec)
    # A commit has many names, such as a branch; the digest of the weights covers it.
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
                f"{run.state / STATE} is missing, so autopeft cannot check that data and model match the "
                "measurements; restore the file, or start again with another --out."
            )
        current = RunState(start=start, decisions=prepared.decisions)
    elif differing := differences(state.start, start):
        raise RunDirError(f"{run.path} cannot be resumed: {differing}; restore it, or pass another --out.")
    else:
        current = replace(state, decisions=_with_new_pieces(state.decisions, prepared))
    current = replace(current, metric_file=file_digest(prepared.spec.task.metric))
    if current != state:
        write_state(run, current)
    for derived in current.decisions:
        log.info("%s", derived)
    return current


def _with_new_pieces(kept: tuple[Decision, ...], prepared: Prepared) -> tuple[Decision, ...]:
    """Replace decisions on the pieces of a step by this call's; drop one if the user sets its setting now."""
    values = {name: str(attrgetter(name)(prepared.spec)) for name in PIECES}
    stays = (d for d in kept if d.setting not in PIECES or values[d.setting] == d.value.replace(",", ""))
    pieces = (decision for decision in prepared.decisions if decision.setting in PIECES)
    return tuple({decision.setting: decision for decision in (*stays, *pieces)}.values())


def loaded_facts(prepared: Prepared) -> dict[str, Any]:
    """Collect what a run loaded, by name: fingerprints of data and weights, the device, versions."""
    base, model_config = prepared.base, cast(Any, prepared.base.module).config
    values = {
        name: value
        for name, value in model_config.to_dict().items()
        if isinstance(value, bool | int | float | str) and name not in _WITHOUT_EFFECT
    }
    vocabulary = sorted(base.tokenizer.get_vocab().items()) if hasattr(base.tokenizer, "get_vocab") else []
    return {
        "data_fingerprint": prepared.data.fingerprint,
        **base.weight_digests,
        "model_config": digest_of(values),
        "vocabulary": digest_of(vocabulary),
        "device": base.device.type,
        "attention": getattr(model_config, "_attn_implementation", None),
        "autopeft": VERSION,
        **{name: importlib.metadata.version(name) for name in _LIBRARIES},
    }


def resumed(requested: RunSpec, explicit: frozenset[str]) -> RunSpec:
    """Read the settings of the run in `requested.output.out`, with the changes that the user may make.

    The user may change `CHANGEABLE`; in a finished run all of these but the deadline. With another `--memory`
    the run chooses the pieces of a step again. Settings that are not `explicit` in this call keep the run's
    values.

    Raises:
        SpecError: The user set another value for a setting that cannot change.
        RunDirError: There is no run, or its state is damaged.
    """
    if requested.output.out is None:
        raise SpecError("--resume needs --out with the run directory to continue.")
    run = RunDir.open(requested.output.out)
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
        if name not in changeable and not is_cut:
            raise SpecError(
                f"--resume keeps the settings of the run: {name} was {old} and cannot become {value}. "
                "Leave it out, or pass another --out for a new run."
            )
        if name == "model.id" and "model.revision" not in explicit:
            spec = with_setting(spec, "model.revision", None)  # it was a revision of the old model
        spec = with_setting(spec, name, value)
    state = read_state(run)
    derived = {decision.setting for decision in state.decisions} if state else set()
    if _MEMORY in explicit:
        for name in (PIECES.keys() & derived) - explicit:
            spec = with_setting(spec, name, PIECES[name])
    if spec.execution.executor != stored.execution.executor:  # it may take fewer workers
        for field, value in (("workers", None), ("device", device_names(stored.execution.device)[0])):
            if f"execution.{field}" not in explicit:
                spec = with_setting(spec, f"execution.{field}", value)
    return spec


def _is_commit(revision: object) -> bool:
    return isinstance(revision, str) and re.fullmatch("[0-9a-f]{40}", revision) is not None
