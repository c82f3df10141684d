"""What a search costs: planned in R by its steps, and afterwards by the clock."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from autopeft.engine.problem import EVAL_COST, USUAL_FINALISTS, Lengths, SearchProblem
from autopeft.records import Cost, Fidelity, Measurement, Outcome, Status

_USUAL_ROWS = 16  # of a step


def planned_runs(problem: SearchProblem) -> list[Fidelity]:
    """The runs of a search at most: short ones, full runs of the finalists, and the test split."""
    seed, lengths = problem.seeds[0], problem.lengths
    n_short = problem.n_trials(len(problem.first_plans))
    n_more = 1 + problem.has_head if problem.effort == "thorough" else 0
    n_full = (USUAL_FINALISTS + n_more) * len(problem.seeds)
    planned = [lengths.short(seed=seed)] * n_short + [lengths.full(seed=seed)] * n_full
    planned += [lengths.test(seed=seed)] * (2 * len(problem.seeds) if lengths.n_test else 0)
    for power in range(1, problem.spec.search.sizes):
        n_small = len(problem.smaller(power).small_plans)
        planned += [lengths.short(seed=seed)] * n_small + [lengths.full(seed=seed)] * min(1, n_small)
    return planned


def repeated_steps(problem: SearchProblem, planned: Sequence[Fidelity]) -> int:
    """Steps of the planned full runs that their short runs have made already."""
    n_full = sum(fidelity == problem.lengths.full(seed=problem.seeds[0]) for fidelity in planned)
    has_short = problem.lengths.short(seed=problem.seeds[0]) in planned
    return n_full * problem.lengths.kept_steps if has_short else 0


def usual_cost(full_steps: int, *, n_first: int = 5) -> float:
    """Cost of a default search in R, where evaluating a split takes a twentieth of a full run."""
    n_examples = int(0.05 * full_steps * _USUAL_ROWS / EVAL_COST)
    lengths = Lengths(
        full_steps=full_steps,
        batch_size=_USUAL_ROWS,
        n_search=n_examples,
        n_confirm=n_examples,
        n_test=n_examples,
    )
    runs = [lengths.short(seed=0)] * n_first + [lengths.full(seed=0)] * USUAL_FINALISTS
    cost = math.fsum(map(lengths.cost, [*runs, lengths.test(seed=0), lengths.test(seed=0)]))
    return cost - USUAL_FINALISTS * lengths.kept_steps * lengths.step_cost


def search_cost(
    outcome: Outcome,
    *,
    earlier: Sequence[Measurement] = (),
    scoring_seconds: float,
    load_seconds: float,
) -> Cost:
    """Seconds by stage, and the cost of the search in R.

    R is the mean full run of the baseline, its evaluation on the confirm split included. A baseline without
    training, which a model without a task head can have, gives no R: there R is that of the other full runs,
    and None if no plan was trained.

    Args:
        outcome: Its measurements, and the baseline.
        earlier: Measurements that the outcome does not use, as of weights that were trained again.
        scoring_seconds: Time of the sensitivity pass, which counts as a part of the search.
        load_seconds: Time until the first work, in which model and data are loaded.
    """
    paid = [*earlier, *outcome.measurements]
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
