"""Two measurements on the same examples, compared by the metric."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from autopeft.engine.ledger import SearchProblem
from autopeft.records import Measurement


def first_by_metric(problem: SearchProblem, ranked: Sequence[Measurement]) -> Measurement:
    """The best by the metric; of those that it cannot tell from that one, the first in the order given.

    It can where they are more than one standard error of their paired difference apart: a few hundred
    examples order close plans by chance, and the loss, which looks at every example's probability, does not.
    """
    best = max(ranked, key=lambda m: problem.sign * (m.metric or 0.0))
    return next(m for m in ranked if m is best or not is_better(problem, best, m, std_errors=1.0))


def is_better(problem: SearchProblem, one: Measurement, other: Measurement, *, std_errors: float) -> bool:
    """Whether the metric of one is above that of another by so many standard errors of their difference."""
    pairs = list(zip(one.example_scores, other.example_scores, strict=False))
    if len(pairs) < 2:
        return False
    gaps = [problem.sign * (a - b) for a, b in pairs]
    return statistics.fmean(gaps) > std_errors * statistics.stdev(gaps) / math.sqrt(len(gaps))
