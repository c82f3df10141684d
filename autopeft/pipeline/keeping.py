"""What a run keeps for its resumption beside its measurements: scores, wave and decisions."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

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
_SCORES, _SECONDS = "scores.json", "scoring_seconds.json"  # there too
_WAVE = "wave.json"
# How a step is cut into pieces that fit into the memory, and what stands for a choice that is left open.
PIECES = {"execution.micro_batch_tokens": None, "execution.checkpointing": "auto"}

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
