"""What a search is expected to take, and `--max-time`, to which a full run is shortened."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from autopeft import engine, space
from autopeft.errors import SpecError, TrainingError
from autopeft.pipeline.allowance import warn_of_cost, within_cost
from autopeft.pipeline.computing import in_memory_of_run
from autopeft.pipeline.prepare import Prepared
from autopeft.pipeline.problem import schedule_of
from autopeft.records import Decision, Plan, RunSpec, with_setting
from autopeft.space import AllocationContext, Policy, Space
from autopeft.train import Pace, kept_bytes, pace_of

_PROBE_RATE = 1e-5  # so low that no run diverges
_PASS_SHARE = 0.05  # of a full run, what the sensitivity pass takes at most
_TRAINED_BYTES = 16  # of a trained parameter: itself, its gradient, and AdamW's two moments in float32
_USUAL_REPORT_SECONDS = 5.0  # for weights, exports and the report; chosen by hand
# The time of a search as shares of the most that its schedule allows at the pace of LoRA: heads train faster,
# some methods slower, and not every run is needed. Four searches took 0.65 to 1.0 of it (reports/LOG.md).
_LOW, _EXPECTED, _HIGH = 0.55, 0.8, 1.2
_SHARE = 0.85  # of the limit; the rest is for methods slower than LoRA and for the report; chosen by hand
# Steps of a full run: below the first, plans rank badly (see `engine.rungs`); the last is chosen by hand.
_RANKING_STEPS, _LEAST_STEPS = 75, 20
_EVAL_EXAMPLES = "data.max_eval_examples"
_NO_TIME = 1e-9  # seconds of a step, where only the rest of a run is counted

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Span:
    """An estimate in seconds."""

    low: float
    expected: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a search takes.

    `full_run_seconds` is R, one full run of the baseline with its evaluation. `seconds` are those of the
    whole command. `peak_bytes` is what a training step of the longest rows takes, weights included, with
    `dearest`, the method that takes most where it spends the whole budget. `price` is in the currency of
    `--gpu-price`, None without it.
    """

    full_run_seconds: float
    seconds: Span
    peak_bytes: int
    dearest: str
    price: Span | None = None


def forecast(
    prepared: Prepared,
    feasible: Space,
    context: AllocationContext,
    pace: Pace,
    *,
    given: frozenset[str],
    seconds_so_far: float,
) -> Forecast:
    """What a prepared search takes at the pace of the baseline.

    `seconds_so_far` is what loading took, `given` are the dotted names of the user's settings.
    """
    schedule = schedule_of(prepared)
    full_run = schedule.full_steps * pace.step_seconds + schedule.n_confirm * pace.example_seconds
    full_run += pace.run_seconds
    before, after = seconds_so_far, _USUAL_REPORT_SECONDS
    most = expected_seconds(prepared, pace, given=given) + _PASS_SHARE * full_run
    low, expected, high = (before + share * most + after for share in (_LOW, _EXPECTED, _HIGH))
    limit = prepared.spec.search.max_time_seconds
    if limit is not None:
        low, expected, high = (min(seconds, limit) for seconds in (low, expected, high))
    seconds = Span(low=low, expected=expected, high=high)
    hourly = prepared.spec.execution.gpu_price
    price = None
    if hourly is not None:
        price = Span(low=hourly * low / 3600, expected=hourly * expected / 3600, high=hourly * high / 3600)
    peaks = peak_bytes(prepared, feasible, context)
    dearest = max(peaks, key=lambda name: peaks[name])
    return Forecast(
        full_run_seconds=full_run,
        seconds=seconds,
        peak_bytes=peaks[dearest],
        dearest=dearest,
        price=price,
    )


def expected_seconds(prepared: Prepared, pace: Pace, *, given: frozenset[str]) -> float:
    """What search and confirmation take at most, by the schedule's own cost and a measured pace."""
    prepared = within_cost(prepared, given)
    search, plain = prepared.spec.search, schedule_of(prepared)
    prices = engine.Prices(
        example=pace.example_seconds * plain.batch_size / pace.step_seconds,
        run=pace.run_seconds / pace.step_seconds,
    )
    n_seeds = 0 if prepared.spec.confirm.fidelity == "none" else prepared.spec.confirm.seeds
    planned, cost = (
        engine.planned_cost(schedule, trials=search.trials) + schedule.confirm_cost(n_seeds=n_seeds)
        for schedule in (plain, replace(plain, prices=prices))
    )
    # The search stops at its limit, which counts steps and examples by the plain schedule.
    share = 1.0 if search.max_cost is None else min(1.0, search.max_cost / planned)
    return share * cost * plain.full_steps * pace.step_seconds


def probe_plan(context: AllocationContext) -> Plan:
    """The baseline, which has no adapters where no LoRA fits the budget."""
    policy = next(iter(space.baseline_policies(context, learning_rate=_PROBE_RATE).values()))
    return space.plan_of(policy, context)


def measured_pace(prepared: Prepared, context: AllocationContext) -> Pace | None:
    """The pace of the baseline by a few timed steps; None where it cannot be trained."""
    try:
        return pace_of(prepared.bench, probe_plan(context))
    except TrainingError:
        return None


@in_memory_of_run("a training step on the longest rows")
def peak_bytes(prepared: Prepared, feasible: Space, context: AllocationContext) -> Mapping[str, int]:
    """What a training step of each method takes where it spends the whole budget, weights included.

    The step is that of the longest rows that the device takes at once; what it keeps for the backward pass is
    counted in a forward pass, with what a checkpointed layer computes again.

    Raises ModelError where memory runs out.
    """
    bench = prepared.bench
    split = bench.splits["train"]
    n_tokens = int(split.sizes[split.largest_rows(1)].max())
    weights = prepared.base.weight_bytes
    peaks = {}
    for name in dict.fromkeys(name for arm in feasible.arms for name, _ in feasible.parts(arm)):
        plan = space.plan_of(Policy(method=name, learning_rate=_PROBE_RATE), context)
        tokens = bench.compute.of(plan).micro_batch_tokens
        n_rows = bench.batch_size if tokens is None else max(1, tokens // n_tokens)
        rows = split.largest_rows(min(n_rows, bench.batch_size))
        trained = plan.trainable_params + prepared.base.head_params
        peaks[name] = weights + kept_bytes(bench, plan, rows) + _TRAINED_BYTES * trained
    return peaks


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
    least = prepared.task.defaults.eval_examples
    if _EVAL_EXAMPLES not in given and least is not None:
        most = max(len(split.labels) for name, split in prepared.bench.splits.items() if name != "train")
        for power in range(most.bit_length(), -1, -1):  # each number half of the one before
            if least << power < most:
                spec = with_setting(spec, _EVAL_EXAMPLES, least << power)
                yield spec, _RANKING_STEPS
    yield spec, _LEAST_STEPS


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
