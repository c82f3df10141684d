"""What a search cost in R, the cost of one full run of the baseline, by the clock."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from autopeft.types import Cost, Measurement, Outcome, Status


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
    total_seconds = scoring_seconds + sum(seconds.values())
    return Cost(
        sensitivity_seconds=scoring_seconds,
        search_seconds=seconds["search"],
        full_seconds=seconds["confirm"],
        sizes_seconds=sum(step.seconds for step in outcome.sizes),
        test_seconds=seconds["test"],
        full_run_seconds=full_run_seconds,
        load_seconds=load_seconds,
        train_seconds=sum(m.train_seconds for m in paid),
        eval_seconds=sum(m.eval_seconds for m in paid),
        total_seconds=total_seconds,
        total_full_runs=total_seconds / full_run_seconds if full_run_seconds else None,
    )
