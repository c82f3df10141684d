"""Full runs of the leading baselines, paid by a confirmation that has no rival to compare."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from autopeft.engine.choose import by_merit, lowered, smallest_candidate
from autopeft.engine.finalists import Chosen
from autopeft.engine.ledger import Ledger, Measured
from autopeft.engine.problem import SearchProblem
from autopeft.engine.ranking import is_allowed, ranked_by_loss
from autopeft.engine.study_log import StudyLog
from autopeft.records import Adapter, Measurement, Plan

_LEAST = 2  # full runs; one alone compares nothing

log = logging.getLogger(__name__)


def deepened(problem: SearchProblem, study_log: StudyLog, last: Measured, chosen: Chosen) -> Chosen:
    """The chosen plans after full runs of the leading baselines, where the incumbent is one of them.

    Their confirmation has no rival to compare, so that most of what is kept for it is left. That pays for
    what people do by hand: the best plan of each baseline placement is trained in full and judged on the
    search split, and then the leading one at lower rates as long as that helps, as many as can be paid. Short
    runs favour high learning rates, and some data teach nothing in them.
    """
    baseline = chosen.baseline
    ledger, schedule = study_log.ledger, problem.schedule
    if (
        chosen.incumbent != baseline
        or not baseline.adapters
        or schedule.has_long_last
        or problem.spec.confirm.fidelity == "none"
    ):
        return chosen
    left = schedule.full_steps - schedule.rung_steps[-1]
    if not _has_room(problem, ledger, n_runs=_LEAST, steps=left):
        return chosen
    # The best plan of each baseline placement, the leading one first.
    allowed = [m for m in ranked_by_loss(last.values()) if is_allowed(problem, m)]
    of_adapters: dict[tuple[Adapter, ...], Plan] = {baseline.adapters: baseline}
    for measurement in by_merit(problem, ledger, [m for m in allowed if ledger.is_baseline(m.plan)]):
        of_adapters.setdefault(measurement.plan.adapters, measurement.plan)
    placements = [plan for plan in of_adapters.values() if plan.adapters]
    while not _has_room(problem, ledger, n_runs=len(placements), steps=left):
        placements.pop()
    ledger.progress.phase("full runs", len(placements))
    ledger.plan_ahead(problem.full_rung, n_measurements=len(placements), new_steps=left)
    requests = [(plan, problem.full_rung) for plan in placements]
    results = ledger.measure_in_time(requests, reserve=ledger.verdict_reserve(problem), new_steps=left)
    if len(results) == len(requests):
        results += _at_lower_rates(problem, study_log, last, results)
    ledger.plan_ahead(problem.full_rung, n_measurements=0)
    ranked = ranked_by_loss(results)
    if not ranked:
        return chosen
    best = by_merit(problem, ledger, ranked)[0]
    text = "The best of %d full runs of baselines is %s at the rate %.1e."
    log.info(text, len(results), ledger.arms[best.plan].label, best.plan.learning_rate)
    # The candidate for the smallest plan, by runs of one length: those of the last rung.
    short = next((m for m in allowed if m.plan.adapters == best.plan.adapters), None)
    smallest = best.plan if short is None else smallest_candidate(problem, allowed, short).plan
    is_same = smallest.adapters == best.plan.adapters
    return Chosen(best.plan, best.plan, best.plan if is_same else smallest)


def _at_lower_rates(
    problem: SearchProblem, study_log: StudyLog, last: Measured, results: Sequence[Measurement]
) -> list[Measurement]:
    """Full runs of the best of some full runs at lower and lower rates, as long as each is the best."""
    ledger, new = study_log.ledger, list[Measurement]()
    while _has_room(problem, ledger, n_runs=1, steps=problem.schedule.full_steps):
        ranked = ranked_by_loss([*results, *new])
        latest = new[-1] if new else results[0]  # leads where all have failed, towards a still lower rate
        leading = by_merit(problem, ledger, ranked)[0] if ranked else latest
        if new and leading is not new[-1]:
            break
        plan, arm = leading.plan, ledger.arms[leading.plan]
        below = [p for p in last if p.adapters == plan.adapters and p.learning_rate < plan.learning_rate]
        if below:
            known = max(below, key=lambda plan: plan.learning_rate)
            new += ledger.measure_all([(known, problem.full_rung)])
            continue
        lower = lowered(plan, problem, arm=arm)
        if lower is None:
            break
        new.append(study_log.measure_extra(arm, lower, source="retuned", fidelity=problem.full_rung))
    return new


def _has_room(problem: SearchProblem, ledger: Ledger, *, n_runs: int, steps: int) -> bool:
    """Whether runs of so many new steps can be made in time, and paid beside the least confirmation.

    That is one run each of the baseline, of a small plan and of the head alone.
    """
    n_new = ledger.n_new(problem.full_rung, n_measurements=n_runs)
    seconds = n_new * ledger.estimate(problem.full_rung, new_steps=steps)
    if n_new and not ledger.has_time_for(seconds=seconds, reserve=ledger.verdict_reserve(problem)):
        return False
    limit, schedule = problem.spec.search.max_cost, problem.schedule
    if limit is None:
        return True
    runs = n_runs * schedule.cost(steps=steps, eval_examples=schedule.n_search)
    return ledger.cost(schedule) + runs + schedule.confirm_cost(n_seeds=1) <= limit
