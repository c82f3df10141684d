"""What a search is expected to take, before it starts: time, memory and money."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from autopeft import engine, estimate, model, space
from autopeft.errors import AutopeftError, TrainingError
from autopeft.estimate import Memory, Setup, Target
from autopeft.pipeline.allowance import within_cost
from autopeft.pipeline.prepare import Prepared
from autopeft.pipeline.problem import schedule_of
from autopeft.records import IN_MEMORY, Plan
from autopeft.space import AllocationContext, Policy, Space
from autopeft.train import Pace, pace_of

_PROBE_RATE = 1e-5  # so low that no run diverges
_PASS_SHARE = 0.05  # of a full run, what the sensitivity pass takes at most
_REPORT_SECONDS = 5.0  # for weights, exports and the report; chosen by hand
# Actual time as shares of the bound that the schedule gives at the pace of LoRA: plans are twins of others,
# heads train faster, other methods slower. See reports/studies/predicted_time.md.
_LOW, _EXPECTED, _HIGH = 0.6, 0.9, 1.3


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
    whole command. `memory` is that of a training step of the dearest arm, `dearest`; None where it cannot
    be told. `price` is in the currency of `--gpu-price`, None without it.
    """

    full_run_seconds: float
    seconds: Span
    memory: Memory | None = None
    dearest: str = ""
    price: Span | None = None


def forecast(
    prepared: Prepared,
    feasible: Space,
    context: AllocationContext,
    *,
    given: frozenset[str],
    seconds_so_far: float,
) -> Forecast | None:
    """What a prepared search takes, by two timed steps of the baseline; None where it cannot be trained.

    `seconds_so_far` is what loading took, `given` are the dotted names of the user's settings.
    """
    try:
        pace = pace_of(prepared.bench, probe_plan(context))
    except TrainingError:
        return None
    schedule = schedule_of(prepared)
    full_run = schedule.full_steps * pace.step_seconds + schedule.n_confirm * pace.example_seconds
    full_run += pace.run_seconds
    before, after = seconds_so_far, _REPORT_SECONDS
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
    memories = memory_of_arms(prepared, feasible, context)
    dearest = max(memories, key=lambda name: memories[name].expected, default="")
    return Forecast(
        full_run_seconds=full_run,
        seconds=seconds,
        memory=memories.get(dearest),
        dearest=dearest,
        price=price,
    )


def expected_seconds(prepared: Prepared, pace: Pace, *, given: frozenset[str]) -> float:
    """What search and confirmation take at most, by the schedule's own cost and a measured pace."""
    prepared = within_cost(prepared, given)
    search, plain = prepared.spec.search, schedule_of(prepared)
    timed = replace(
        plain,
        eval_cost=pace.example_seconds * plain.batch_size / pace.step_seconds,
        run_steps=pace.run_seconds / pace.step_seconds,
    )
    n_seeds = 0 if prepared.spec.confirm.fidelity == "none" else prepared.spec.confirm.seeds
    planned, cost = (
        engine.planned_cost(schedule, trials=search.trials, strategy=search.strategy)
        + schedule.confirm_cost(n_seeds=n_seeds)
        for schedule in (plain, timed)
    )
    # The search stops at its limit, which counts steps and examples by the plain schedule.
    share = 1.0 if search.max_cost is None else min(1.0, search.max_cost / planned)
    return share * cost * plain.full_steps * pace.step_seconds


def probe_plan(context: AllocationContext) -> Plan:
    """The baseline, which has no adapters where no LoRA fits the budget."""
    policy = next(iter(space.baseline_policies(context, learning_rate=_PROBE_RATE).values()))
    return space.plan_of(policy, context)


def memory_of_arms(prepared: Prepared, feasible: Space, context: AllocationContext) -> Mapping[str, Memory]:
    """The memory of a step of each method of the space at all its sites, as far as it can be told.

    The step is the one of the longest rows that the device takes at once.
    """
    spec = prepared.spec
    if spec.model.id == IN_MEMORY:
        return {}
    setup = Setup(
        model=spec.model,
        dtype=getattr(torch, prepared.base.precision.dtype),
        on_gpu=prepared.base.device.type == "cuda",
    )
    n_tokens = int(prepared.bench.splits["train"].sizes.max())
    tokens = prepared.bench.compute.micro_batch_tokens
    n_rows = prepared.bench.batch_size if tokens is None else max(1, tokens // n_tokens)
    n_rows = min(n_rows, prepared.bench.batch_size)
    found = {}
    for name in feasible.methods:
        try:
            policy = Policy(method=name, learning_rate=_PROBE_RATE)
            target = Target(label=name, plan=space.plan_of(policy, context), task=spec.task.name)
            with model.quiet_libraries():
                described = estimate.describe(
                    target, setup, methods=prepared.methods, tasks={spec.task.name: prepared.task}
                )
                memory_model = estimate.MemoryModel(
                    subject=described.subject, checkpointing=prepared.bench.compute.checkpointing
                )
                step = memory_model.at(n_rows, n_tokens)
        except AutopeftError:  # as for images, whose batches are not known without data
            continue
        found[name] = estimate.in_parts(step, on_gpu=setup.on_gpu)
    return found
