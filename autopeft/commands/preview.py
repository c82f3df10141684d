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
from autopeft.finished.refit import refit_cost
from autopeft.setup.build import Prepared
from autopeft.setup.look import NAMED, InMemory
from autopeft.setup.opening import open_run
from autopeft.setup.resources import memory_needed
from autopeft.setup.search_facts import setting_of
from autopeft.setup.search_problem import head_factors, search_problem
from autopeft.space import Policy
from autopeft.store import RunDir
from autopeft.train import Pace, kept_bytes, pace_of
from autopeft.types import Fidelity, RunSpec, SearchFacts

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

    - `setting`: model, data, task, budget and splits, as in the result; `label`: the column of the labels.
    - `trials`: short runs, of the `listed_plans` and then of what the sampler proposes.
    - `search_cost`: the most that the search costs, in R, finished weights included.
    - `least_differences`: low and high guess of the smallest difference, in [0, 1], that a verdict sees on
      `n_confirm` examples; None for losses.
    - `forecast`: time and memory; None if the baseline cannot be trained.
    """

    setting: SearchFacts
    label: str
    device: str
    dtype: str
    out: str | None
    methods: tuple[str, ...]
    listed_plans: tuple[str, ...]
    trials: int
    short_steps: int
    seeds: int
    search_cost: float
    n_confirm: int
    least_differences: tuple[float, float] | None
    forecast: Forecast | None


@dataclass(frozen=True, kw_only=True)
class Span:
    """An estimate."""

    low: float
    expected: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a search takes.

    `full_run_seconds` is R, one full run of the baseline with its evaluation. `seconds` are those of the
    whole command. `peak_bytes` is what a training step of the longest rows takes, weights included, with the
    method `dearest`: of all methods that spend the whole budget it takes most. `price` is in the currency of
    `--gpu-price`; None without it.
    """

    full_run_seconds: float
    seconds: Span
    peak_bytes: int
    dearest: str
    price: Span | None = None


def preview(
    spec: RunSpec,
    *,
    explicit: frozenset[str] = frozenset(),
    resume: bool = False,
    memory: InMemory = NAMED,
    started: float | None = None,
) -> Preview:
    """Check everything that a search needs, and report its size without starting it.

    The arguments are those of `run_search`.
    """
    started = time.monotonic() if started is None else started
    if spec.output.out is not None and not resume:
        RunDir.check(spec.output.out)
    with open_run(spec, explicit=explicit, resume=resume, out=None, memory=memory) as opened:
        prepared = opened.prepared
        problem = search_problem(
            prepared,
            opened.feasible,
            opened.context,
            user_plan=opened.user_plan,
            head_factors=head_factors(prepared),
        )
        forecast = _forecast(prepared, problem, so_far=time.monotonic() - started)
    lengths = problem.lengths
    low, high = (statistics.least_difference(lengths.n_confirm, disagreement=d) for d in _DISAGREEMENTS)
    return Preview(
        setting=setting_of(prepared, {}),
        label=prepared.data.label_column,
        device=prepared.base.device.type,
        dtype=prepared.base.precision.dtype,
        out=spec.output.out,
        methods=problem.space.arms,
        listed_plans=tuple(str(arm) for arm, _, _ in problem.listed),
        trials=problem.n_trials,
        short_steps=lengths.short_steps,
        seeds=len(problem.seeds),
        search_cost=_most_cost(prepared, problem),
        n_confirm=lengths.n_confirm,
        least_differences=(low, high) if prepared.task.is_share else None,
        forecast=forecast,
    )


def _most_cost(prepared: Prepared, problem: SearchProblem) -> float:
    """Return the most that a search costs, in R; a limit never shortens the full runs of the baseline."""
    lengths = problem.lengths
    planned = math.fsum(map(lengths.cost, planned_runs(problem)))
    planned += _further_steps(prepared, problem) * lengths.step_cost
    least = len(problem.seeds) * (lengths.cost(lengths.full(seed=0)) + lengths.cost(lengths.test(seed=0)))
    return min(planned, max(prepared.spec.search.max_cost or math.inf, least))


def _further_steps(prepared: Prepared, problem: SearchProblem) -> float:
    """Return the steps of the refit, less those that full runs do not repeat."""
    return refit_cost(prepared) * problem.lengths.full_steps - repeated_steps(problem)


def _forecast(prepared: Prepared, problem: SearchProblem, *, so_far: float) -> Forecast | None:
    """Time a few steps of the baseline, and estimate what a search takes at this pace.

    Loading took the seconds `so_far`. The answer is None if the baseline cannot be trained.
    """
    baseline = space.plan_of(space.default_lora(problem.space, problem.context), problem.context)
    try:
        pace = pace_of(prepared.bench, replace(baseline, learning_rate=_PROBE_RATE))
    except TrainingError:
        return None
    search, hourly = prepared.spec.search, prepared.spec.execution.gpu_price
    full_run = _seconds(problem.lengths.full(seed=0), pace)
    most = math.fsum(_seconds(fidelity, pace) for fidelity in planned_runs(problem))
    most += _PASS_SHARE * full_run + _further_steps(prepared, problem) * pace.step_seconds
    overhead = so_far + _USUAL_REPORT_SECONDS
    least = overhead + len(problem.seeds) * full_run  # limits never shorten these runs
    limit = min(search.max_time_seconds or math.inf, (search.max_cost or math.inf) * full_run)
    low, expected, high = (
        min(max(limit, least), overhead + share * most) for share in (_LOW, _EXPECTED, _HIGH)
    )
    price = None
    if hourly is not None:
        price = Span(low=hourly * low / 3600, expected=hourly * expected / 3600, high=hourly * high / 3600)
    peaks = _peak_bytes(prepared, problem)
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


def _peak_bytes(prepared: Prepared, problem: SearchProblem) -> Mapping[str, int]:
    """Measure the bytes of a training step of each method with the whole budget, weights included.

    The step has the longest rows, as many as the device takes at once. What it keeps for the backward pass is
    counted in a forward pass, including what a checkpointed layer computes again.

    Raises ModelError if memory runs out.
    """
    bench, feasible = prepared.bench, problem.space
    split = bench.splits["train"]
    n_tokens = int(split.sizes[split.largest_rows(1)].max())
    peaks = {}
    with memory_needed("a training step on the longest rows", prepared.spec):
        for name, part in dict(pair for arm in feasible.arms for pair in feasible.parts(arm)).items():
            placement = "all" if "all" in part.placement else part.placement[0]
            policy = Policy(method=name, placement=placement, learning_rate=_PROBE_RATE)
            plan = space.plan_of(policy, problem.context)
            tokens = bench.compute.of(plan).micro_batch_tokens
            n_rows = bench.batch_size if tokens is None else max(1, tokens // n_tokens)
            rows = split.largest_rows(min(n_rows, bench.batch_size))
            trained = plan.trainable_params + prepared.base.head_params
            kept = kept_bytes(bench, plan, rows)
            peaks[name] = prepared.base.weight_bytes + kept + _TRAINED_BYTES * trained
    return peaks


def planned_runs(problem: SearchProblem) -> list[Fidelity]:
    """List the runs of a search, as if no limit stops it."""
    return list(chain.from_iterable(problem.planned.values()))


def repeated_steps(problem: SearchProblem) -> int:
    """Count the steps of planned full runs that short runs, which have the first seed alone, have done."""
    from_scratch = len(problem.head_factors) - 1 + (problem.is_thorough and problem.has_head)
    n_continued = problem.planned["full runs"].count(problem.full) - from_scratch
    n_begun = min(problem.n_trials, n_continued) + len(problem.sizes)
    return n_begun * problem.lengths.kept_steps
