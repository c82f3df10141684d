"""Plans that no other beats on both loss and parameters, and plans that the budget allows."""

from __future__ import annotations

from collections.abc import Iterable

from autopeft.engine.problem import SearchProblem
from autopeft.engine.ranking import by_loss
from autopeft.records import Measurement


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
