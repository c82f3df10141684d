"""What a run keeps for its resumption beside its measurements: scores, decisions, rungs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from autopeft.engine import Rungs
from autopeft.errors import RunDirError
from autopeft.records import (
    Decision,
    RunSpec,
    SiteScores,
    from_json,
    to_json,
)
from autopeft.store import RunDir, damaged, read_checked, write_checked

Record = TypeVar("Record")

_DECISIONS = "decisions.json"  # in the state of a run: settings that it derived
_RUNGS, _SCORES, _SECONDS = "rungs.json", "scores.json", "scoring_seconds.json"  # there too
_WAVE = "wave.json"
# How a step is cut into pieces that fit into the memory, and what stands for a choice that is left open.
PIECES = {"execution.micro_batch_tokens": None, "execution.checkpointing": "auto"}
# What limits of cost and time decide; a run keeps it from its first measurement on.
DECIDED = frozenset(
    {"search.max_cost", "search.trials", "confirm.fidelity", "confirm.seeds", "data.max_eval_examples"}
    | {"task.epochs", "task.max_steps"}
)
# What a larger limit of cost decides anew, and every decision that a resumed run may make anew or be given.
RAISED = frozenset({"search.trials", "confirm.seeds"})
_ANEW = RAISED | PIECES.keys() | {"search.max_cost"}

log = logging.getLogger(__name__)


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


def keep_wave(run: RunDir, wave: int) -> int:
    """How many plans this run proposes at once: as at its start, whatever workers it has now."""
    kept = _read_or_warn(int, run.state / _WAVE)
    if kept is None:
        write_checked(run.state / _WAVE, wave)
    return wave if kept is None else kept


def keep_decisions(run: RunDir, spec: RunSpec, derived: tuple[Decision, ...]) -> tuple[Decision, ...]:
    """The settings that this run derived: those on the disk, since a resumed run reads their values.

    The pieces of a step may have been chosen again, or given, and so may trials and seeds; before the first
    measurement all that limits of cost and time decide.
    """
    if (kept := kept_decisions(run)) is not None:
        anew = _ANEW if run.is_begun else _ANEW | DECIDED
        again = {decision.setting: decision for decision in derived if decision.setting in anew}
        current = to_json(spec)
        derived = tuple(
            again.pop(decision.setting, decision)
            for decision in kept
            if decision.setting in again or _still_holds(decision, current, anew=anew)
        )
        derived += tuple(again.values())
    if derived != kept:
        write_checked(run.state / _DECISIONS, [to_json(decision) for decision in derived])
    return derived


def _still_holds(decision: Decision, current: Any, *, anew: Collection[str]) -> bool:
    """Whether the setting of a decision on the disk may not change, or has the value that it gave it."""
    topic, field = decision.setting.split(".")
    value = current[topic][field]
    now = f"{value:g}" if isinstance(value, float) else str(value)
    return decision.setting not in anew or now == decision.value.replace(",", "")


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


def kept_rungs(run: RunDir) -> Rungs | None:
    """The rungs on the disk; None before there are any, or after a warning where they are damaged."""
    return _read_or_warn(Rungs, run.state / _RUNGS)


def keep_rungs(run: RunDir, rungs: Rungs, *, before: Rungs | None) -> None:
    """Keep the rungs of a run for its resumption; paused runs that were to reach others are dropped."""
    if before is not None and rungs != before:
        run.forget_all_paused()
    if rungs != before:
        write_checked(run.state / _RUNGS, to_json(rungs))
