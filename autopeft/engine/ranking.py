"""The order of measurements: by loss, by loss and parameters, and by the metric on the same examples."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from autopeft import evidence
from autopeft.engine.problem import SearchProblem
from autopeft.records import Measurement

_CLEAR = 2.0  # standard errors by which the metric overrules the loss; chosen by hand
_FAR = 4.0  # standard errors, that one seed may tell; as the examples alone make them; chosen by hand
_ONE_SIDED = 1.645  # standard errors: the one-sided 95 % bound


def by_loss(measurement: Measurement) -> tuple[float, int, str]:
    """Sort key: loss first, then fewer parameters, then the digest, so that the order is total."""
    loss = math.inf if measurement.loss is None else measurement.loss
    return (loss, measurement.plan.trainable_params, measurement.plan.digest)


def ranked_by_loss(measurements: Iterable[Measurement]) -> list[Measurement]:
    """The measurements that have a loss, lowest loss first."""
    return sorted((m for m in measurements if m.loss is not None), key=by_loss)


def front(measured: Iterable[Measurement]) -> list[Measurement]:
    """The Pareto front over parameters and loss, fewest parameters first."""
    kept: list[Measurement] = []
    finished = (m for m in measured if m.loss is not None)
    for measurement in sorted(finished, key=lambda m: (m.plan.trainable_params, by_loss(m))):
        if not kept or by_loss(measurement)[0] < by_loss(kept[-1])[0]:
            kept.append(measurement)
    return kept


def is_allowed(problem: SearchProblem, measurement: Measurement) -> bool:
    """Whether a plan keeps to the budget, which a plan that the user brought may exceed."""
    return measurement.plan.trainable_params <= problem.context.max_params


def best_by_metric(problem: SearchProblem, measurements: Sequence[Measurement]) -> Measurement:
    """The measurement with the best metric, the first of equals."""
    return max(measurements, key=lambda m: -math.inf if m.metric is None else problem.sign * m.metric)


def first_by_metric(problem: SearchProblem, ranked: Sequence[Measurement]) -> Measurement:
    """The first of `ranked` that the metric cannot tell from the best by the metric.

    The metric can tell two plans apart where they differ by more than two standard errors of their paired
    difference. A few hundred examples order close plans by chance; the loss, by which `ranked` is sorted,
    looks at the probability of every example and does not.
    """
    best = best_by_metric(problem, ranked)
    return next(m for m in ranked if m is best or not is_clearly_better(problem, best, m))


def is_clearly_better(problem: SearchProblem, first: Measurement, second: Measurement) -> bool:
    """Whether the metric of `first` is better by more than chance alone makes it."""
    gap = _gap(problem, first, second)
    return gap is not None and gap[0] > _CLEAR * gap[1]


def is_far_behind(problem: SearchProblem, first: Measurement, second: Measurement) -> bool:
    """Whether the metric of `first` is worse by more than the margin and by four standard errors.

    False where either of the two has no scores.
    """
    gap = _gap(problem, second, first)
    return gap is not None and gap[0] > max(_FAR * gap[1], problem.margin)


def may_be_as_good(problem: SearchProblem, small: Measurement, best: Measurement) -> bool:
    """Whether a plan may lose no more than the margin against the best one, on the same examples.

    False where the upper end of its one-sided 95 % bound lies below the margin, and where the metric of
    either was not measured.
    """
    gap = _gap(problem, small, best)
    return gap is not None and gap[0] + _ONE_SIDED * gap[1] >= -problem.margin


def _gap(problem: SearchProblem, first: Measurement, second: Measurement) -> tuple[float, float] | None:
    """By how much the metric of `first` is better, and the standard error over the examples of both.

    Where examples of the split belong together, it is that over their groups.
    """
    pairs = zip(first.example_scores, second.example_scores, strict=False)
    gaps = [problem.sign * (a - b) for a, b in pairs]
    if len(gaps) < 2:
        return None
    groups = problem.examples(first.fidelity.split).groups
    return evidence.mean_and_std_error([gaps], span=None, examples=evidence.Examples(groups=groups))
