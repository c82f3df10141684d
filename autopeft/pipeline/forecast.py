"""What a search is expected to take, before it starts: time, memory and money."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from autopeft import engine, space
from autopeft.errors import TrainingError
from autopeft.pipeline.allowance import within_cost
from autopeft.pipeline.computing import in_memory_of_run
from autopeft.pipeline.prepare import Prepared
from autopeft.pipeline.problem import schedule_of
from autopeft.records import Plan
from autopeft.space import AllocationContext, Policy, Space
from autopeft.train import Pace, kept_bytes, pace_of

_PROBE_RATE = 1e-5  # so low that no run diverges
_PASS_SHARE = 0.05  # of a full run, what the sensitivity pass takes at most
_TRAINED_BYTES = 16  # of a trained parameter: itself, its gradient, and AdamW's two moments in float32
_USUAL_REPORT_SECONDS = 5.0  # for weights, exports and the report; chosen by hand
# The time of a search as shares of the most that its schedule allows at the pace of LoRA: heads train faster,
# some methods slower, and not every run is needed. Four searches took 0.65 to 1.0 of it (reports/LOG.md).
_LOW, _EXPECTED, _HIGH = 0.55, 0.8, 1.2


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
