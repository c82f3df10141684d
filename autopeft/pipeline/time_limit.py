"""`--max-time`: a full run as long as search and confirmation can pay, by a short timed probe.

What is shortened is a setting that the user left open, in this order: the length of a full run down to where
plans still rank, evaluated examples, and the full run again. Trials and confirmation follow from its length
(see `allowance`).
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from autopeft.errors import SpecError, TrainingError
from autopeft.pipeline.allowance import warn_of_cost, within_cost
from autopeft.pipeline.forecast import expected_seconds, probe_plan
from autopeft.pipeline.prepare import Prepared
from autopeft.pipeline.problem import schedule_of
from autopeft.records import Decision, RunSpec, with_setting
from autopeft.space import AllocationContext
from autopeft.train import Pace, pace_of

_SHARE = 0.85  # of the limit; the rest is for methods slower than LoRA and for the report; chosen by hand
# Steps of a full run: below the first, plans rank badly (see `engine.rungs`); the last is chosen by hand.
_RANKING_STEPS, _LEAST_STEPS = 75, 20
_EVAL_EXAMPLES = "data.max_eval_examples"
_NO_TIME = 1e-9  # seconds of a step, where only the rest of a run is counted

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TimeLimit:
    """The settings as the user gave them, the dotted names that were given, and when the run began."""

    spec: RunSpec
    given: frozenset[str]
    started: float

    @property
    def is_open(self) -> bool:
        """Whether there is a time limit, and the length of a full run is left to it.

        The demo's length gives way to a limit that the user set.
        """
        task, seconds = self.spec.task, self.spec.search.max_time_seconds
        if seconds is None or self.given & {"task.epochs", "task.max_steps"}:
            return False
        return "search.max_time_seconds" in self.given or (task.epochs is None and task.max_steps is None)

    @property
    def seconds_left(self) -> float:
        """What the measurements may take from now on."""
        assert self.spec.search.max_time_seconds is not None
        return _SHARE * self.spec.search.max_time_seconds - self.clock()

    def clock(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self.started

    def require_time(self) -> None:
        """Raise SpecError where no time is left from which the length of a full run could be chosen."""
        most = self.spec.search.max_time_seconds
        if self.is_open and most is not None and self.clock() >= most:
            raise SpecError(
                f"The time was up before the first step: --max-time is {most:g} s, and model and data took "
                f"{self.clock():.0f} s to load; raise --max-time."
            )


def within_time(
    prepared: Prepared, limit: TimeLimit, context: AllocationContext, *, pace: Pace | None = None
) -> Prepared:
    """The run, shortened where its expected time exceeds `--max-time`, with the decisions.

    What `--max-cost` decides follows from the length of a full run and is decided too. The pace of the
    baseline is measured where it is needed and not given.
    """
    chosen = within_cost(_shortened(prepared, limit, context, pace), limit.given)
    warn_of_cost(chosen)
    return chosen


def _shortened(
    prepared: Prepared, limit: TimeLimit, context: AllocationContext, pace: Pace | None
) -> Prepared:
    """The run as long as its time allows, before the limit of cost decides the rest."""
    given = limit.given
    if not limit.is_open:
        return prepared
    try:
        pace = pace or pace_of(prepared.bench, probe_plan(context))
    except TrainingError as error:
        log.warning("The length of a full run does not follow --max-time. %s", error)
        return prepared
    seconds = limit.seconds_left
    if expected_seconds(prepared, pace, given=given) <= seconds:
        return prepared
    shortened = fitted(prepared, pace, seconds=seconds, given=given)
    expected = expected_seconds(shortened, pace, given=given)
    if expected > seconds:
        evaluating = expected_seconds(shortened, replace(pace, step_seconds=_NO_TIME), given=given)
        schedule = schedule_of(within_cost(shortened, given))
        log.warning(
            "--max-time is short: the answer may take another %.0f minutes, %.0f of them to evaluate %d "
            "examples of search, %d of confirm and %d of test, several times each; raise --max-time.",
            math.ceil(expected / 60),
            evaluating / 60,
            schedule.n_search,
            schedule.n_confirm,
            schedule.n_test,
        )
    return shortened


def fitted(prepared: Prepared, pace: Pace, *, seconds: float, given: frozenset[str]) -> Prepared:
    """The run with the longest full run that is expected to end in time, or the cheapest run of all."""
    cheapest = prepared
    for spec, least in _cheaper(prepared, given):
        candidate = replace(prepared, spec=spec)
        cheapest = replace(candidate, full_steps=min(least, prepared.full_steps))
        if expected_seconds(cheapest, pace, given=given) <= seconds:
            n_steps = _longest(candidate, pace, seconds=seconds, least=cheapest.full_steps, given=given)
            return _with_decisions(prepared, replace(candidate, full_steps=n_steps))
    return _with_decisions(prepared, cheapest)


def _cheaper(prepared: Prepared, given: frozenset[str]) -> Iterator[tuple[RunSpec, int]]:
    """Cheaper and cheaper settings, each with the least steps of a full run."""
    spec = prepared.spec
    yield spec, _RANKING_STEPS
    if _EVAL_EXAMPLES not in given:
        for value in _few_examples(prepared):
            spec = with_setting(spec, _EVAL_EXAMPLES, value)
            yield spec, _RANKING_STEPS
    yield spec, _LEAST_STEPS


def _few_examples(prepared: Prepared) -> list[int]:
    """Numbers of examples to evaluate, each half of the one before, down to the least of the task."""
    least = prepared.task.defaults.eval_examples
    most = max(len(split.labels) for name, split in prepared.bench.splits.items() if name != "train")
    if least is None:
        return []
    return [least << power for power in range(most.bit_length(), -1, -1) if least << power < most]


def _longest(prepared: Prepared, pace: Pace, *, seconds: float, least: int, given: frozenset[str]) -> int:
    """The most steps of a full run that fit, by bisection; `least` are known to fit."""
    low, high = least, prepared.full_steps
    while low < high:
        middle = (low + high + 1) // 2
        fits = expected_seconds(replace(prepared, full_steps=middle), pace, given=given) <= seconds
        low, high = (middle, high) if fits else (low, middle - 1)
    return low


def _with_decisions(before: Prepared, after: Prepared) -> Prepared:
    """The shortened run, with its settings and a decision for each that differs."""
    spec, decisions = after.spec, list(before.decisions)
    why = "so that the answer fits --max-time"
    if after.full_steps < before.full_steps:
        assert before.spec.task.epochs is not None
        share = after.full_steps / before.full_steps
        n_epochs = f"{before.spec.task.epochs * share:.2g} epochs instead of {before.spec.task.epochs:g}"
        rule = f"{n_epochs}, {why}; --epochs or --max-steps override"
        spec = with_setting(spec, "task.max_steps", after.full_steps)
        decisions = [decision for decision in decisions if decision.setting != "task.epochs"]
        decisions.append(Decision(setting="task.max_steps", value=f"{after.full_steps:,}", rule=rule))
    if spec.data.max_eval_examples != before.spec.data.max_eval_examples:
        value = str(spec.data.max_eval_examples)
        decisions.append(Decision(setting=_EVAL_EXAMPLES, value=value, rule=f"all by default; {why}"))
    return replace(after, spec=spec, decisions=tuple(decisions))
