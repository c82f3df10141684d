"""`search --dry-run`: everything that a search needs is checked; its size, time and memory are predicted."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

from autopeft import space, statistics
from autopeft.commands.forecast import PROBE_RATE, SearchTime, further_steps, planned_runs, search_time
from autopeft.engine import SearchProblem
from autopeft.setup.build import Prepared
from autopeft.setup.look import NAMED, InMemory
from autopeft.setup.opening import open_run
from autopeft.setup.resources import memory_needed
from autopeft.setup.search_facts import setting_of
from autopeft.setup.search_problem import search_problem
from autopeft.space import Policy
from autopeft.store import RunDir
from autopeft.train import kept_bytes
from autopeft.types import RunSpec, SearchFacts

# Share of the confirm rows that two good plans answer differently: 0.02 if accuracy is 98 %, 0.1 at 78 %.
_DISAGREEMENTS = (0.02, 0.1)
_TRAINED_BYTES = 16  # of a trained parameter: itself, its gradient, and AdamW's two moments in float32


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
class Forecast(SearchTime):
    """What a search takes: its time, and memory.

    `peak_bytes` is what a training step of the longest rows takes, weights included, with the method
    `dearest`: of all methods that spend the whole budget it takes most.
    """

    peak_bytes: int
    dearest: str


def preview(spec: RunSpec, *, resume: bool = False, memory: InMemory = NAMED) -> Preview:
    """Check everything that a search needs, and report its size without starting it.

    The arguments are those of `run_search`.
    """
    started = time.monotonic()
    if spec.output.out is not None and not resume:
        RunDir.check(spec.output.out)
    with open_run(spec, resume=resume, out=None, memory=memory) as opened:
        prepared = opened.prepared
        problem = search_problem(opened)
        forecast = None
        if predicted := search_time(prepared, problem, so_far=time.monotonic() - started):
            peaks = _peak_bytes(prepared, problem)
            dearest = max(peaks, key=lambda name: peaks[name])
            forecast = Forecast(**vars(predicted), peak_bytes=peaks[dearest], dearest=dearest)
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
        least_differences=(low, high) if prepared.task.metric.is_share else None,
        forecast=forecast,
    )


def _most_cost(prepared: Prepared, problem: SearchProblem) -> float:
    """Return the most that a search costs, in R; a limit never shortens the full runs of the baseline."""
    lengths = problem.lengths
    planned = math.fsum(map(lengths.cost, planned_runs(problem)))
    planned += further_steps(prepared, problem) * lengths.step_cost
    least = len(problem.seeds) * (lengths.cost(lengths.full(seed=0)) + lengths.cost(lengths.test(seed=0)))
    return min(planned, max(prepared.spec.search.max_cost or math.inf, least))


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
            policy = Policy(method=name, placement=placement, learning_rate=PROBE_RATE)
            plan = space.plan_of(policy, problem.context)
            tokens = bench.compute.of(plan).micro_batch_tokens
            n_rows = bench.batch_size if tokens is None else max(1, tokens // n_tokens)
            rows = split.largest_rows(min(n_rows, bench.batch_size))
            trained = plan.trainable_params + prepared.base.head_params
            kept = kept_bytes(bench, plan, rows)
            peaks[name] = prepared.base.weight_bytes + kept + _TRAINED_BYTES * trained
    return peaks
