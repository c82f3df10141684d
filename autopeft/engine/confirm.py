"""Confirmation: the finalists trained again on fresh seeds, and the one look at the test split."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from autopeft.engine.finalists import Finalists
from autopeft.engine.judge import Confirmed, has_finished, look_at
from autopeft.engine.ledger import TIME_IS_UP, Ledger
from autopeft.engine.problem import SearchProblem
from autopeft.engine.ranking import is_far_behind
from autopeft.engine.stopping import has_time_to_confirm
from autopeft.errors import StoppedError, TrainingError
from autopeft.evidence import FIRST_LOOK
from autopeft.records import Fidelity, Measurement, Plan, Status

MAX_TESTED = 3  # best, baseline, smallest

log = logging.getLogger(__name__)


def fit_to_time(problem: SearchProblem, ledger: Ledger, finalists: Finalists) -> SearchProblem:
    """The problem, with confirming runs of half length where two full seeds of two plans do not fit.

    Raises:
        StoppedError: Two seeds of half length do not fit before the time limit, either.
    """
    if problem.spec.confirm.fidelity == "none":
        return problem
    plans = list(dict.fromkeys([finalists.incumbent, finalists.baseline]))
    if has_time_to_confirm(problem, ledger, plans):
        return problem
    if has_time_to_confirm(problem.at_half_length, ledger, plans):
        log.warning("Time is short: the plans are confirmed by runs of half length.")
        return problem.at_half_length
    raise StoppedError(TIME_IS_UP)


def confirm(problem: SearchProblem, ledger: Ledger, finalists: Finalists) -> Confirmed:
    """Train plans on fresh seeds: incumbent and baseline first, then the smallest, then the others.

    Incumbent and baseline get one more common seed at a time, up to `confirm.seeds`, until the interval
    between them decides. The others get as many seeds, the same ones, so that rows pair. Where time or cost
    runs short a plan has fewer seeds, two at least, or is missing. The smallest plan and the head alone have
    one seed where they are far behind incumbent or baseline on it: more would not change what is said of
    them. Where the incumbent is the baseline there is nothing to compare: one seed gives its score and its
    weights, unless a smaller plan can be compared.

    Raises:
        StoppedError: The time was up before incumbent and baseline had two seeds each.
        TrainingError: A run of incumbent or baseline broke off, which unlike divergence says
            nothing of its quality.
    """
    if problem.spec.confirm.fidelity == "none":
        return {}
    first = list(dict.fromkeys([finalists.incumbent, finalists.baseline]))
    others = dict.fromkeys([finalists.smallest, *(plan for _, plan in finalists.others)])
    later = [plan for plan in others if plan not in first]
    small = [finalists.smallest] if finalists.smallest not in first else []
    least = problem.least_seeds
    is_compared = len(first) > 1 or bool(small and _can_pay(problem, ledger, first + small, n_new=least))
    n_seeds = problem.spec.confirm.seeds if is_compared else 1
    n_planned = n_seeds * (len(first) + len(later))
    ledger.progress.phase("confirmation", n_planned)
    ledger.plan_ahead(problem.confirmation(0), n_measurements=n_planned)
    # Where the cost pays all that may come, the later plans run in any case, and need not wait.
    pays_all = can_confirm(problem, ledger, first + later, n_new=n_seeds, tested=finalists.chief)
    ahead = later if pays_all else []
    rows = _confirm_group(
        problem, ledger, finalists, first, n_seeds=n_seeds, is_needed=True, ahead=_begun(finalists, ahead)
    )
    if len(rows) < problem.least_seeds_of(first):
        raise StoppedError(TIME_IS_UP)
    confirmed = {plan: list(runs) for plan, runs in zip(first, zip(*rows, strict=True), strict=True)}
    n_seeds = len(rows)
    for place, plan in enumerate(later, start=1):
        ledger.plan_ahead(problem.confirmation(0), n_measurements=n_seeds)
        begun = _begun(finalists, ahead[place:])
        for n_wanted in (1, n_seeds) if _may_be_settled(finalists, plan) else (n_seeds,):
            rows = _confirm_group(
                problem, ledger, finalists, [plan], n_seeds=n_wanted, is_needed=False, ahead=begun
            )
            runs = [run for (run,) in rows]
            is_settled = any(is_far_behind(problem, run, confirmed[p][0]) for run in runs[:1] for p in first)
            if is_settled or not runs:
                break
        if len(runs) >= (1 if is_settled else min(least, n_seeds)):
            confirmed[plan] = runs
    return confirmed


def _may_be_settled(finalists: Finalists, plan: Plan) -> bool:
    """Whether one seed may be enough for a plan: not for those that the user brought."""
    return plan == finalists.smallest or not plan.adapters


def _begun(finalists: Finalists, plans: Sequence[Plan]) -> dict[Plan, int | None]:
    """How many seeds of plans that come later idle workers may begin: those that run in any case."""
    return {plan: 1 if _may_be_settled(finalists, plan) else None for plan in plans}


def _confirm_group(
    problem: SearchProblem,
    ledger: Ledger,
    finalists: Finalists,
    group: Sequence[Plan],
    *,
    n_seeds: int,
    is_needed: bool,
    ahead: Mapping[Plan, int | None],
) -> list[list[Measurement]]:
    """One row for each seed, with a measurement of every plan of a group; it may stop early.

    The test split will be read for the chief finalists, which must be paid too. Idle workers begin runs of
    the plans `ahead`, which are confirmed next, on as many seeds or on so many.
    """
    n_sure = n_seeds if len(group) == 1 else min(n_seeds, FIRST_LOOK)
    n_beside = math.ceil(ledger.executor.n_workers / len(group))
    n_least = problem.least_seeds_of(group) if is_needed else 0
    rows: list[list[Measurement]] = []
    while len(rows) < n_seeds:
        # Side by side run as many seeds as there are workers for, and as are needed whatever the scores
        # before them say.
        n_new = max(1, min(n_beside, n_sure - len(rows)))
        while n_new and not can_confirm(
            problem,
            ledger,
            group,
            n_new=n_new,
            n_rows=len(rows),
            may_use_reserve=len(rows) + n_new <= n_least,
            tested=finalists.chief,
        ):
            n_new -= 1
        if not n_new:
            break
        fidelities = [problem.confirmation(seed) for seed in range(len(rows) + n_new)]
        results = ledger.measure_all(
            [(plan, fidelity) for fidelity in fidelities[len(rows) :] for plan in group],
            ahead=[(plan, fidelity) for plan, n_begun in ahead.items() for fidelity in fidelities[:n_begun]],
        )
        new = [results[start : start + len(group)] for start in range(0, len(results), len(group))]
        for row in new:
            failed = next((measurement for measurement in row if measurement.status.is_of_machine), None)
            if failed and is_needed:
                raise _broken_off("A confirming run", failed)
            if failed:
                log.warning("A confirming run of plan %s failed; it has fewer seeds.", failed.plan.digest)
                return rows
            rows.append(row)
        if len(group) > 1 and look_at(problem, rows).is_decided:
            break
    return rows


def can_confirm(
    problem: SearchProblem,
    ledger: Ledger,
    group: Sequence[Plan],
    *,
    n_new: int,
    n_rows: int = 0,
    may_use_reserve: bool = False,
    tested: Collection[Plan] | None = None,
) -> bool:
    """Whether more seeds fit; the least of incumbent and baseline may use the report's reserve.

    `fit_to_time` has counted those, but the machine may have become slower since: they may end a little late.
    `n_rows` is how many seeds the group has.
    """
    seeds = range(n_rows, n_rows + n_new)
    keys = [(plan, problem.confirmation(index)) for index in seeds for plan in group]
    n_runs = sum(key not in ledger.known for key in keys)
    n_turns = math.ceil(n_runs / ledger.executor.n_workers)
    seconds = n_turns * ledger.estimate(problem.confirmation(0))
    if may_use_reserve:
        reserve = -ledger.tolerance
    elif _can_pay(problem, ledger, group, n_new=n_new, n_rows=n_rows, tested=tested):
        reserve = ledger.report_reserve(problem, n_plans=MAX_TESTED)
    else:
        return False
    return not n_runs or ledger.has_time_for(seconds=seconds, reserve=reserve)


def _can_pay(
    problem: SearchProblem,
    ledger: Ledger,
    group: Sequence[Plan],
    *,
    n_new: int,
    n_rows: int = 0,
    tested: Collection[Plan] | None = None,
) -> bool:
    """Whether more seeds of some plans keep to `max_cost`, with the test split of those that are `tested`.

    None stands for all confirmed plans. What was measured is paid.
    """
    limit, schedule = problem.spec.search.max_cost, problem.schedule
    if limit is None:
        return True
    confirmed = [plan for plan, fidelity in ledger.measured if fidelity.split == "confirm"]
    seeds = range(n_rows, n_rows + n_new)
    new = [p for p in group for seed in seeds if (p, problem.confirmation(seed)) not in ledger.measured]
    n_read = sum(tested is None or plan in tested for plan in (*confirmed, *new))
    runs = math.fsum(map(schedule.confirm_run_cost, new))
    read = n_read * schedule.cost(steps=0, eval_examples=schedule.n_test)
    return ledger.cost(schedule) + runs + read <= limit


def read_test(
    problem: SearchProblem, ledger: Ledger, finalists: Finalists, confirmed: Confirmed
) -> Confirmed:
    """The test split, read once, with the confirmed weights of the chief plans; empty where there is none.

    A seed that diverged has no weights, and counts as wrong here as it does in the confirmation. A plan all
    of whose seeds diverged is left out.

    Raises:
        TrainingError: A run broke off, which says nothing of its plan's quality.
    """
    if not problem.schedule.n_test:
        return {}
    rows = {plan: confirmed[plan] for plan in finalists.chief if has_finished(confirmed.get(plan, []))}
    ledger.progress.phase("test", sum(map(len, rows.values())))

    def fidelity(run: Measurement) -> Fidelity:
        return problem.schedule.fidelity("test", seed=run.fidelity.seed)

    requests = [
        (plan, fidelity(run)) for plan, runs in rows.items() for run in runs if run.status is Status.COMPLETE
    ]
    measured = dict(zip(requests, ledger.measure_all(requests), strict=True))
    failed = next((m for m in measured.values() if m.status.is_of_machine), None)
    if failed:
        raise _broken_off("A run on the test split", failed)

    def tested(run: Measurement) -> Measurement:
        without_weights = replace(run, fidelity=fidelity(run), train_seconds=0.0, eval_seconds=0.0)
        return measured.get((run.plan, fidelity(run)), without_weights)

    return {plan: list(map(tested, runs)) for plan, runs in rows.items()}


def _broken_off(run: str, measurement: Measurement) -> TrainingError:
    return TrainingError(
        f"{run} of plan {measurement.plan.digest} failed: {measurement.reason}. "
        "What was measured is kept; mend the cause and continue with --resume."
    )
