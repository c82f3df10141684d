"""What a search costs in R, the cost of one full run of the baseline: planned by steps, then by the clock."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from autopeft.engine.problem import EVAL_COST, USUAL_FINALISTS, Lengths, SearchProblem
from autopeft.types import Cost, Fidelity, Measurement, Outcome, Status

_USUAL_ROWS = 16  # rows of a step in `usual_cost`; the cost hardly depends on it


def planned_runs(problem: SearchProblem) -> list[Fidelity]:
    """List the runs of a search, as if no limit stops it: short, full, on the test split, smaller budgets."""
    short = [problem.lengths.short(seed=problem.seeds[0])] * problem.n_trials
    return [*short, *final_runs(problem), *smaller_runs(problem)]


def final_runs(problem: SearchProblem) -> list[Fidelity]:
    """List the runs of the finalists, as if no limit stops them."""
    # The best plan of the sampler may be one more; a thorough search adds a listed plan and the head alone.
    n_extra = int(problem.n_trials > len(problem.listed))
    n_extra += 1 + problem.has_head if problem.effort == "thorough" else 0
    return [*slower_heads(problem), *problem.full_runs(n_plans=USUAL_FINALISTS + n_extra)]


def slower_heads(problem: SearchProblem) -> list[Fidelity]:
    """List the further full runs of the baseline, at other learning rates of the head."""
    return [problem.lengths.full(seed=problem.seeds[0])] * (len(problem.head_factors) - 1)


def smaller_runs(problem: SearchProblem, *, after: int = 0) -> list[Fidelity]:
    """List the runs for smaller budgets after some of them, as if no limit stops them."""
    seed, lengths, planned = problem.seeds[0], problem.lengths, list[Fidelity]()
    for power in range(1 + after, problem.spec.search.sizes):
        n_small = len(problem.smaller(power).small_plans)
        planned += [lengths.short(seed=seed)] * n_small + [lengths.full(seed=seed)] * min(1, n_small)
    return planned


def repeated_steps(problem: SearchProblem) -> int:
    """Count the steps of planned full runs that need no training: short runs have the first seed alone."""
    n_finalists = final_runs(problem).count(problem.lengths.full(seed=problem.seeds[0]))
    has_head_alone = problem.effort == "thorough" and problem.has_head
    n_from_scratch = len(problem.head_factors) - 1 + has_head_alone
    n_begun = min(problem.n_trials, n_finalists - n_from_scratch)
    n_small = smaller_runs(problem).count(problem.lengths.full(seed=problem.seeds[0]))
    return (n_begun + n_small) * problem.lengths.kept_steps


def usual_cost(full_steps: int, *, n_listed: int = 5) -> float:
    """Estimate the cost of a default search in R, if evaluating a split costs a twentieth of the training."""
    n_examples = int(0.05 * full_steps * _USUAL_ROWS / EVAL_COST)
    lengths = Lengths(
        full_steps=full_steps,
        batch_size=_USUAL_ROWS,
        n_search=n_examples,
        n_confirm=n_examples,
        n_test=n_examples,
    )
    runs = [lengths.short(seed=0)] * lengths.n_trials(n_listed)
    runs += [lengths.full(seed=0)] * USUAL_FINALISTS
    cost = math.fsum(map(lengths.cost, [*runs, lengths.test(seed=0), lengths.test(seed=0)]))
    return cost - USUAL_FINALISTS * lengths.kept_steps * lengths.step_cost


def search_cost(
    outcome: Outcome,
    *,
    paid: Sequence[Measurement],
    scoring_seconds: float = 0.0,
    load_seconds: float = 0.0,
) -> Cost:
    """Add up the seconds by stage, and the cost of the search in R.

    R is the mean time of the baseline's full runs, evaluation on the confirm split included. If the baseline
    is not trained (the untrained model), R is the mean of all trained full runs. If there are none, the cost
    in R is None.

    `paid` are all measurements that took time, also those that the outcome does not use, such as those of
    lost weights. The sensitivity pass counts as a part of the search; loading is kept apart from the total.
    """
    in_full = [m for m in outcome.measurements if m.fidelity.split == "confirm"]
    trained = [m for m in in_full if m.status is Status.COMPLETE and m.trained_steps]
    trained = [m for m in trained if m.plan == outcome.baseline] or trained
    of_full_runs = [m.train_seconds_from_start + m.eval_seconds + m.overhead_seconds for m in trained]
    full_run_seconds = fmean(of_full_runs) if trained else None
    seconds = {"search": 0.0, "confirm": 0.0, "test": 0.0}
    for measurement in paid:
        seconds[measurement.fidelity.split] += measurement.total_seconds
    sizes_seconds = sum(step.seconds for step in outcome.sizes)
    total_seconds = scoring_seconds + sum(seconds.values())
    return Cost(
        sensitivity_seconds=scoring_seconds,
        search_seconds=seconds["search"],
        full_seconds=seconds["confirm"],
        sizes_seconds=sizes_seconds,
        test_seconds=seconds["test"],
        full_run_seconds=full_run_seconds,
        load_seconds=load_seconds,
        train_seconds=sum(m.train_seconds for m in paid),
        eval_seconds=sum(m.eval_seconds for m in paid),
        total_seconds=total_seconds,
        total_full_runs=total_seconds / full_run_seconds if full_run_seconds else None,
    )
