"""The order of measurements: by loss, and by the metric on the same examples."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

from autopeft.engine.problem import SearchProblem
from autopeft.records import Measurement


def by_loss(measurement: Measurement) -> tuple[float, int, str]:
    """Sort key: loss first, then fewer parameters, then the digest, so that the order is total."""
    loss = math.inf if measurement.loss is None else measurement.loss
    return (loss, measurement.plan.trainable_params, measurement.plan.digest)


def ranked_by_loss(measurements: Iterable[Measurement]) -> list[Measurement]:
    """The measurements that have a loss, lowest loss first."""
    return sorted((m for m in measurements if m.loss is not None), key=by_loss)


def first_by_metric(problem: SearchProblem, ranked: Sequence[Measurement]) -> Measurement:
    """The first of `ranked` that the metric cannot tell from the best by the metric.

    The metric can tell two plans apart where they differ by more than one standard error of their paired
    difference. A few hundred examples order close plans by chance; the loss, by which `ranked` is sorted,
    looks at the probability of every example and does not.
    """
    best = max(ranked, key=lambda m: -math.inf if m.metric is None else problem.sign * m.metric)
    return next(m for m in ranked if m is best or not is_better(problem, best, m, std_errors=1.0))


def is_better(problem: SearchProblem, first: Measurement, second: Measurement, *, std_errors: float) -> bool:
    """Whether the metric of `first` is the better one by so many standard errors of the difference."""
    pairs = list(zip(first.example_scores, second.example_scores, strict=False))
    if len(pairs) < 2:
        return False
    gaps = [problem.sign * (a - b) for a, b in pairs]
    return statistics.fmean(gaps) > std_errors * statistics.stdev(gaps) / math.sqrt(len(gaps))
