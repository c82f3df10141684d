"""What a search is expected to take."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from autopeft import space
from autopeft.engine import SearchProblem, planned_runs, repeated_steps
from autopeft.errors import TrainingError
from autopeft.records import Fidelity, Plan
from autopeft.run.computing import in_memory_of_run
from autopeft.run.prepare import Prepared
from autopeft.space import AllocationContext, Policy, Space
from autopeft.train import Pace, kept_bytes, pace_of

_PROBE_RATE = 1e-5  # so low that no run diverges
_PASS_SHARE = 0.05  # of a full run, what the sensitivity pass takes at most
_TRAINED_BYTES = 16  # of a trained parameter: itself, its gradient, and AdamW's two moments in float32
_USUAL_REPORT_SECONDS = 5.0  # for weights, exports and the report; chosen by hand
# The time of a search as shares of what its plan takes at the pace of LoRA: other methods are slower.
# Chosen by hand.
_LOW, _EXPECTED, _HIGH = 0.9, 1.1, 1.4


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


def forecast(prepared: Prepared, problem: SearchProblem, pace: Pace, *, seconds_so_far: float) -> Forecast:
    """What a prepared search takes at the pace of the baseline; `seconds_so_far` is what loading took.

    Limits shorten the search alone: the default is trained in full with every seed in any case.
    """
    lengths = problem.lengths
    full_run = _seconds(lengths.full(seed=0), pace)
    before, after = seconds_so_far, _USUAL_REPORT_SECONDS
    planned = planned_runs(problem)
    most = math.fsum(_seconds(fidelity, pace) for fidelity in planned) + _PASS_SHARE * full_run
    most -= repeated_steps(problem, planned) * pace.step_seconds
    limits = (prepared.spec.search.max_time_seconds, (prepared.spec.search.max_cost or math.inf) * full_run)
    least = before + len(problem.seeds) * full_run + after
    limit = max(min(limits[0] or math.inf, limits[1]), least)
    low, expected, high = (min(limit, before + share * most + after) for share in (_LOW, _EXPECTED, _HIGH))
    hourly = prepared.spec.execution.gpu_price
    price = None
    if hourly is not None:
        price = Span(low=hourly * low / 3600, expected=hourly * expected / 3600, high=hourly * high / 3600)
    peaks = peak_bytes(prepared, problem.space, problem.context)
    dearest = max(peaks, key=lambda name: peaks[name])
    return Forecast(
        full_run_seconds=full_run,
        seconds=Span(low=low, expected=expected, high=high),
        peak_bytes=peaks[dearest],
        dearest=dearest,
        price=price,
    )


def _seconds(fidelity: Fidelity, pace: Pace) -> float:
    steps = 0 if fidelity.split == "test" else fidelity.train_steps
    example = pace.example_seconds
    if fidelity.split == "search":  # short runs make no texts, which may take most of an evaluation
        rows = fidelity.train_examples / fidelity.train_steps
        example = min(example, pace.step_seconds / rows)
    return steps * pace.step_seconds + fidelity.eval_examples * example + pace.run_seconds


def probe_plan(feasible: Space, context: AllocationContext) -> Plan:
    """The baseline, which has no adapters where no LoRA fits the budget."""
    policy = space.default_lora(feasible, context)
    return replace(space.plan_of(policy, context), learning_rate=_PROBE_RATE)


def measured_pace(prepared: Prepared, feasible: Space, context: AllocationContext) -> Pace | None:
    """The pace of the baseline by a few timed steps; None where it cannot be trained."""
    try:
        return pace_of(prepared.bench, probe_plan(feasible, context))
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
