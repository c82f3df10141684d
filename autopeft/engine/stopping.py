"""When the search stops proposing, promoting or comparing plans: time and cost."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

from autopeft.engine.ledger import Ledger
from autopeft.engine.problem import SearchProblem
from autopeft.records import Plan, Status

log = logging.getLogger(__name__)


def n_allowed(problem: SearchProblem, ledger: Ledger, *, most: int) -> int:
    """How many more proposals time and cost allow next, `most` at most."""
    fits = (n for n in range(most, 0, -1) if has_room(problem, ledger, n_plans=n, index=0))
    n_plans = next(fits, 0)
    if n_plans < most:
        n_measured = len(ledger.at(problem.rung(0))) + n_plans
        log.info("Time or cost is short: rung 1 ends after %d plans.", n_measured)
    return n_plans


def has_room(
    problem: SearchProblem, ledger: Ledger, *, n_plans: int, index: int, is_new: bool = False
) -> bool:
    """Whether some plans can be measured at a rung, within the time and the cost that are left.

    Room stays for the rungs above and for the confirmation. `is_new` counts the plans' steps from the start.
    """
    limit, schedule = problem.spec.search.max_cost, problem.schedule
    rungs = range(schedule.last + 1) if index == 0 else (index,)  # plans of the first with their later rungs
    n_new = ledger.n_new(problem.rung(index), n_measurements=n_plans)
    n_turns = math.ceil(n_new / ledger.executor.n_workers)
    seconds = n_turns * math.fsum(
        ledger.estimate(problem.rung(rung), new_steps=None if is_new else schedule.new_steps(rung))
        for rung in rungs
    )
    if n_new and not ledger.has_time_for(seconds=seconds, reserve=ledger.confirm_reserve(problem)):
        return False
    if limit is None:
        return True
    cost = ledger.cost(schedule) + n_plans * schedule.rung_cost(index, is_new=is_new)
    n_measured = n_plans + len(ledger.at(problem.rung(0))) if index == 0 else 0
    return cost + schedule.least_cost_above(index, n_plans=n_measured) + problem.confirm_reserve <= limit


def has_time_to_confirm(
    problem: SearchProblem, ledger: Ledger, plans: Sequence[Plan], *, beside: float = 0.0
) -> bool:
    """Whether the least confirming seeds of some plans, their test split and seconds `beside` them fit.

    What is stored takes no time.
    """
    seeds = range(problem.least_seeds_of(plans))
    keys = [(plan, problem.confirmation(index)) for plan in plans for index in seeds]
    n_new = sum(key not in ledger.known for key in keys)
    if not n_new:
        finished = [key for key in keys if ledger.known[key].status is Status.COMPLETE]
        on_test = [(plan, problem.schedule.fidelity("test", seed=at.seed)) for plan, at in finished]
        if not problem.schedule.n_test or all(key in ledger.known for key in on_test):
            return True
    n_turns = math.ceil(n_new / ledger.executor.n_workers)
    seconds = n_turns * ledger.estimate(problem.confirmation(0)) + beside
    return ledger.has_time_for(seconds=seconds, reserve=ledger.test_reserve(problem, n_runs=len(keys)))
