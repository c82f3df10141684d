"""`search --dry-run`: everything that a search needs is checked; its size, time and memory are predicted."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import chain

from autopeft import space, statistics
from autopeft.engine import SearchProblem
from autopeft.errors import TrainingError
from autopeft.run.prepare import NAMED, InMemory, Prepared
from autopeft.run.refit import refit_cost
from autopeft.run.resources import memory_needed
from autopeft.run.search_problem import head_factors, open_run, search_problem
from autopeft.space import AllocationContext, Policy, Space
from autopeft.store import RunDir
from autopeft.train import Pace, kept_bytes, pace_of
from autopeft.types import Decision, Fidelity, RunSpec

# Share of the confirm rows that two good plans answer differently: 0.02 if accuracy is 98 %, 0.1 at 78 %.
_DISAGREEMENTS = (0.02, 0.1)
_PROBE_RATE = 1e-5  # so low that no run diverges
_PASS_SHARE = 0.05  # of a full run, what the sensitivity pass takes at most
_TRAINED_BYTES = 16  # of a trained parameter: itself, its gradient, and AdamW's two moments in float32
_USUAL_REPORT_SECONDS = 5.0  # for weights, exports and the report; heuristic
# The time of a search as shares of what its plan takes at the pace of LoRA: other methods are slower.
# Heuristic.
_LOW, _EXPECTED, _HIGH = 0.9, 1.1, 1.4


@dataclass(frozen=True, kw_only=True)
class Preview:
    """The size of a search that has not started: the answer to `--dry-run`.

    - `inputs`, `label`: columns of the data. `split_sizes`: rows by split. `out`: None for a new folder.
    - `n_targets`, `matched_targets`: target modules that a search may use, and at how many of them each
      method fits.
    - `trials`: short runs, of the `listed_plans` and then of what the sampler proposes.
    - `search_cost`: the most that the search costs, in R, finished weights included.
    - `n_confirm_groups`: groups that the verdict counts instead of confirm examples; 0 if examples count.
    - `least_differences`: low and high guess of the smallest difference, in [0, 1], that a verdict sees;
      None for losses.
    - `forecast`: time and memory; None if the baseline cannot be trained.
    - `decisions`: the settings that would be derived.
    """

    base_model: str
    data: str
    inputs: tuple[str, ...]
    label: str
    task: TaskFacts
    split_sizes: Mapping[str, int]
    device: str
    dtype: str
    out: str | None
    max_trainable_params: int
    base_params: int
    head_params: int
    n_targets: int
    methods: tuple[str, ...]
    matched_targets: Mapping[str, int]
    listed_plans: tuple[str, ...]
    trials: int
    short_steps: int
    full_run_steps: int
    seeds: int
    search_cost: float
    n_confirm: int
    n_confirm_groups: int
    least_differences: tuple[float, float] | None
    forecast: Forecast | None
    decisions: tuple[Decision, ...] = ()


def preview(
    spec: RunSpec,
    *,
    explicit: frozenset[str] = frozenset(),
    resume: bool = False,
    memory: InMemory = NAMED,
    started: float | None = None,
) -> Preview:
    """Check everything that a search needs, and report its size without starting it.

    `memory` has the model and the dataset that were passed as objects.
    `started` is when the command began, in seconds of `time.monotonic`; None is now.
    """
    started = time.monotonic() if started is None else started
    if spec.output.out is not None and not resume:
        RunDir.check(spec.output.out)
    with open_run(spec, explicit=explicit, resume=resume, out=None, memory=memory) as opened:
        prepared, feasible, context = opened.prepared, opened.feasible, opened.context
        loaded_seconds = time.monotonic() - started
        pace = measured_pace(prepared, feasible, context)
        problem = search_problem(
            prepared,
            feasible,
            context,
            user_plan=opened.user_plan,
            head_factors=head_factors(prepared),
        )
        forecast = None if pace is None else forecast_of(prepared, problem, pace, so_far=loaded_seconds)
    spec, base, lengths = prepared.spec, prepared.base, problem.lengths
    planned = planned_runs(problem)
    all_runs = math.fsum(map(lengths.cost, planned))
    all_runs -= repeated_steps(problem) * lengths.step_cost
    all_runs += refit_cost(prepared) * lengths.full_steps * lengths.step_cost
    # Limits shorten only the search: the baseline is trained in full with every seed.
    least = len(problem.seeds) * (lengths.cost(lengths.full(seed=0)) + lengths.cost(lengths.test(seed=0)))
    methods = dict.fromkeys(name for arm in feasible.arms for name, _ in feasible.parts(arm))
    refusals = {name: map(context.methods[name].refusal, context.targets) for name in methods}
    least_differences = None
    if prepared.task.is_share:
        low, high = (statistics.least_difference(lengths.n_confirm, disagreement=d) for d in _DISAGREEMENTS)
        least_differences = (low, high)
    return Preview(
        base_model=base.name,
        data=prepared.data.name,
        inputs=prepared.data.text_columns,
        label=prepared.data.label_column,
        task=task_facts(prepared),
        split_sizes={name: len(split.labels) for name, split in prepared.bench.splits.items()},
        device=base.device.type,
        dtype=base.precision.dtype,
        out=spec.output.out,
        max_trainable_params=prepared.budget.max_trainable_params,
        base_params=base.base_params,
        head_params=base.head_params,
        n_targets=len(context.targets),
        methods=feasible.arms,
        matched_targets={name: sum(r is None for r in of_targets) for name, of_targets in refusals.items()},
        listed_plans=tuple(str(arm) for arm, _, _ in problem.listed),
        trials=problem.n_trials,
        short_steps=lengths.short_steps,
        full_run_steps=lengths.full_steps,
        seeds=len(problem.seeds),
        search_cost=min(all_runs, max(spec.search.max_cost or math.inf, least)),
        n_confirm=lengths.n_confirm,
        n_confirm_groups=len(set(problem.groups.get("confirm", ()))),
        least_differences=least_differences,
        forecast=forecast,
        decisions=prepared.decisions,
    )


def planned_runs(problem: SearchProblem) -> list[Fidelity]:
    """List the runs of a search, as if no limit stops it."""
    return list(chain.from_iterable(problem.planned.values()))


def repeated_steps(problem: SearchProblem) -> int:
    """Count the steps of planned full runs that short runs, which have the first seed alone, have done."""
    from_scratch = len(problem.head_factors) - 1 + (problem.is_thorough and problem.has_head)
    n_continued = problem.planned["full runs"].count(problem.full) - from_scratch
    n_begun = min(problem.n_trials, n_continued) + len(problem.sizes)
    return n_begun * problem.lengths.kept_steps


@dataclass(frozen=True, kw_only=True)
class TaskFacts:
    """The task, the kind of its labels as `LabelSpace.kind` has it, and the metric.

    `label_names` are in the order of the model's outputs; () where labels are numbers or texts.
    `label_range` is the lowest and the highest number in the train split, None for other kinds.
    """

    name: str
    kind: str
    label_names: tuple[str, ...]
    label_range: tuple[float, float] | None
    metric: str


def task_facts(prepared: Prepared) -> TaskFacts:
    """Collect the facts of the prepared task and data."""
    label_space, labels = prepared.data.label_space, prepared.data.train.labels
    is_number = label_space.kind == "number"
    return TaskFacts(
        name=prepared.task.name,
        kind=label_space.kind,
        label_names=() if is_number else label_space.names,
        label_range=(min(labels), max(labels)) if is_number else None,
        metric=prepared.task.metric,
    )


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
    whole command. `peak_bytes` is what a training step of the longest rows takes, weights included, with the
    method `dearest`: of all methods that spend the whole budget it takes most. `price` is in the currency of
    `--gpu-price`; None without it. `steps_in_time` steps end within `--max-time`; None if a full run does.
    """

    full_run_seconds: float
    seconds: Span
    peak_bytes: int
    dearest: str
    price: Span | None = None
    steps_in_time: int | None = None


def forecast_of(prepared: Prepared, problem: SearchProblem, pace: Pace, *, so_far: float) -> Forecast:
    """Estimate what a search takes at the pace of the baseline; loading took the seconds `so_far`.

    Limits of time and cost shorten only the search: the baseline is trained in full with every seed anyway.
    """
    lengths = problem.lengths
    full_run = _seconds(lengths.full(seed=0), pace)
    planned = planned_runs(problem)
    most = math.fsum(_seconds(fidelity, pace) for fidelity in planned) + _PASS_SHARE * full_run
    most -= repeated_steps(problem) * pace.step_seconds
    most += refit_cost(prepared) * lengths.full_steps * pace.step_seconds
    max_seconds = prepared.spec.search.max_time_seconds or math.inf
    overhead = so_far + _USUAL_REPORT_SECONDS
    least = overhead + len(problem.seeds) * full_run
    limit = max(min(max_seconds, (prepared.spec.search.max_cost or math.inf) * full_run), least)
    low, expected, high = (min(limit, overhead + share * most) for share in (_LOW, _EXPECTED, _HIGH))
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
        steps_in_time=(
            int(lengths.full_steps * max(0.0, max_seconds - overhead) / (least - overhead))
            if max_seconds < least
            else None
        ),
    )


def _seconds(fidelity: Fidelity, pace: Pace) -> float:
    steps = 0 if fidelity.split == "test" else fidelity.train_steps
    example = pace.example_seconds
    if fidelity.split == "search":  # short runs make no texts, which may take most of an evaluation
        rows = fidelity.train_examples / fidelity.train_steps
        example = min(example, pace.step_seconds / rows)
    return steps * pace.step_seconds + fidelity.eval_examples * example + pace.run_seconds


def measured_pace(prepared: Prepared, feasible: Space, context: AllocationContext) -> Pace | None:
    """Time a few steps of the baseline (LoRA, or the head alone); None if it cannot be trained."""
    baseline = space.plan_of(space.default_lora(feasible, context), context)
    try:
        return pace_of(prepared.bench, replace(baseline, learning_rate=_PROBE_RATE))
    except TrainingError:
        return None


def peak_bytes(prepared: Prepared, feasible: Space, context: AllocationContext) -> Mapping[str, int]:
    """Measure the bytes of a training step of each method with the whole budget, weights included.

    The step has the longest rows, as many as the device takes at once. What it keeps for the backward pass is
    counted in a forward pass, including what a checkpointed layer computes again.

    Raises ModelError if memory runs out.
    """
    bench = prepared.bench
    split = bench.splits["train"]
    n_tokens = int(split.sizes[split.largest_rows(1)].max())
    weights = prepared.base.weight_bytes
    peaks = {}
    with memory_needed("a training step on the longest rows", prepared.spec):
        for name, part in dict(pair for arm in feasible.arms for pair in feasible.parts(arm)).items():
            placement = "all" if "all" in part.placement else part.placement[0]
            policy = Policy(method=name, placement=placement, learning_rate=_PROBE_RATE)
            plan = space.plan_of(policy, context)
            tokens = bench.compute.of(plan).micro_batch_tokens
            n_rows = bench.batch_size if tokens is None else max(1, tokens // n_tokens)
            rows = split.largest_rows(min(n_rows, bench.batch_size))
            trained = plan.trainable_params + prepared.base.head_params
            peaks[name] = weights + kept_bytes(bench, plan, rows) + _TRAINED_BYTES * trained
    return peaks
