"""When the first rung stops proposing plans: time, cost, patience."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

from autopeft.engine.ledger import Ledger
from autopeft.engine.problem import SearchProblem
from autopeft.engine.ranking import by_loss, is_better
from autopeft.engine.schedule import later_cost
from autopeft.records import Measurement, Proposal

WAVE = 4  # plans between two looks at the clock; fixed, so that the number of workers changes nothing
_SURE = 1.96  # standard errors: the 95 % interval

log = logging.getLogger(__name__)


def may_go_on(problem: SearchProblem, ledger: Ledger, proposals: Sequence[Proposal]) -> bool:
    """Whether time, cost and patience allow another wave of proposals."""
    return (
        has_time(problem, ledger)
        and _is_within_cost(problem, ledger, n_done=len(proposals))
        and _is_patient(problem, ledger, proposals)
    )


def has_time(problem: SearchProblem, ledger: Ledger) -> bool:
    """Whether a wave fits, with all its rungs, beside the reserve for confirming two plans."""
    seconds = WAVE * math.fsum(
        ledger.estimate(problem.rung(index), new_steps=problem.schedule.new_steps(index))
        for index in range(problem.schedule.last + 1)
    )
    is_enough = ledger.has_time_for(seconds=seconds, reserve=ledger.confirm_reserve(problem))
    if not is_enough:
        log.warning("Time is short: %d plans are measured.", len(ledger.at(problem.rung(0))))
    return is_enough


def _is_within_cost(problem: SearchProblem, ledger: Ledger, *, n_done: int) -> bool:
    """Whether another wave leaves enough of --max-cost for the rungs above."""
    limit, schedule = problem.spec.search.max_cost, problem.schedule
    if limit is None:
        return True
    cost = ledger.cost(schedule) + WAVE * schedule.rung_cost(0) + later_cost(schedule)
    if cost > limit:
        log.info("The cost limit of %g R is reached after %d proposals.", limit, n_done)
    return cost <= limit


def _is_patient(problem: SearchProblem, ledger: Ledger, proposals: Sequence[Proposal]) -> bool:
    """Whether one of the last --patience sampled proposals was better than all before it.

    Better is a lower loss, or a metric above that of the lowest loss by the 95 % interval of their
    difference on the same examples.
    """
    patience = problem.spec.search.patience
    if patience is None:
        return True
    best: Measurement | None = None
    n_idle, measured = 0, ledger.at(problem.rung(0))
    for proposal in proposals:
        measurement = measured[proposal.plan]
        n_idle += proposal.source != "enqueued"
        if measurement.loss is None:
            continue
        is_lowest = best is None or by_loss(measurement) < by_loss(best)
        if is_lowest or (best and is_better(problem, measurement, best, std_errors=_SURE)):
            best, n_idle = measurement, 0
    if n_idle >= patience:
        log.info("The last %d sampled proposals brought nothing better; no more are sampled.", n_idle)
    return n_idle < patience
