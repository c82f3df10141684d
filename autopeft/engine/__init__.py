"""The search: propose plans and measure them, promote, confirm with fresh seeds, judge.

Everything is decided by the seed and by what was measured, in an order that does not
depend on the executor. A stopped run continues when it runs again with its earlier measurements.

Inside the folder each file imports only from those before it:
schedule → problem, cost → ranking, ledger, queue → stopping → study_log → propose, promote →
finalists → judge, choose → deepen, confirm → retry → sentences.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import optuna
from optuna.storages import BaseStorage, InMemoryStorage

from autopeft.engine.choose import choose, of_order, retune, with_margin
from autopeft.engine.confirm import MAX_TESTED, confirm, fit_to_time, read_test
from autopeft.engine.cost import search_cost
from autopeft.engine.deepen import deepened
from autopeft.engine.finalists import find_finalists, with_best
from autopeft.engine.judge import judge, recommended, summaries, with_better
from autopeft.engine.ledger import Ledger, Progress
from autopeft.engine.problem import LEAST_WAVE, SearchProblem
from autopeft.engine.promote import climb, correlation
from autopeft.engine.propose import measure_first_rung
from autopeft.engine.queue import enqueued
from autopeft.engine.ranking import front, is_allowed
from autopeft.engine.retry import retried
from autopeft.engine.schedule import (
    LEAST_AT_RUNG,
    Prices,
    Schedule,
    planned_cost,
    rungs,
    stretched,
    usual_schedule,
)
from autopeft.engine.sentences import plans_as_good, sentences
from autopeft.engine.study_log import StudyLog
from autopeft.records import Outcome, Proxy


def search(
    problem: SearchProblem, ledger: Ledger, *, storage: Callable[[], BaseStorage] = InMemoryStorage
) -> Outcome:
    """Propose, promote, confirm, judge.

    Args:
        problem: What to search among, and how to compare.
        ledger: Holds every measurement afterwards.
        storage: Opens where the Optuna study is written at the end; holds no study named `autopeft`.

    Raises:
        TrainingError: Nothing that was measured finished, or no baseline did.
        StoppedError: The time was up before a verdict.
    """
    _plan_ahead(problem, ledger)
    study_log = StudyLog(problem=problem, ledger=ledger, study=optuna.create_study())
    first = measure_first_rung(study_log)
    by_rung = climb(problem, ledger, first)
    problem = with_margin(problem, ledger, by_rung[-1])
    if len(by_rung) > problem.schedule.last:  # all rungs were reached
        by_rung[-1] = retune(problem, study_log, by_rung[-1])
    first_choice = choose(problem, ledger, by_rung[-1])
    order = of_order(problem, ledger, by_rung[-1], first_choice)
    chosen = deepened(problem, study_log, by_rung[-1], first_choice)
    ledger.release(by_rung[-1])
    finalists = find_finalists(problem, ledger, chosen)
    problem = fit_to_time(problem, ledger, finalists)
    finalists, confirmed, retry_sentences = retried(
        problem, study_log, finalists, confirm(problem, ledger, finalists)
    )
    best = recommended(problem, confirmed, incumbent=finalists.incumbent, baseline=finalists.baseline)
    finalists = with_better(problem, confirmed, with_best(finalists, best, confirmed=confirmed))
    tested = read_test(problem, ledger, finalists, confirmed)
    tried = {plan for plan, fidelity in ledger.measured if fidelity.split == "search"}
    verdict = judge(problem, confirmed, finalists, has_rivals=len(tried) > 1)
    standing = verdict.smallest_equivalent
    verdict = replace(verdict, as_good=plans_as_good(problem, finalists, confirmed, smallest=standing))
    rhos = tuple(correlation(before, after) for before, after in pairwise(by_rung))
    study_log.write(storage())
    return Outcome(
        proposals=tuple(study_log.proposals),
        measurements=tuple(ledger.measured.values()),
        best=finalists.best,
        baseline=finalists.baseline,
        smallest=finalists.smallest,
        confirmations=summaries(problem, confirmed, finalists.by_name),
        test=summaries(problem, tested, finalists.by_name),
        verdict=verdict,
        # How alike neighbouring rungs rank the plans that they share.
        proxy=Proxy(
            rank_correlation=rhos[0] if rhos else None,
            n_plans=sum(plan in by_rung[0] for plan in by_rung[1]) if rhos else 0,
            rung_steps=problem.schedule.rung_steps,
            rank_correlations=rhos,
        ),
        sentences=(order if chosen == first_choice else ())
        + retry_sentences
        + sentences(
            problem, ledger, finalists=finalists, confirmed=confirmed, last=by_rung[-1], verdict=verdict
        ),
        front=tuple(front(m for m in by_rung[-1].values() if is_allowed(problem, m))),
    )


def _plan_ahead(problem: SearchProblem, ledger: Ledger) -> None:
    """Tell the ledger all measurements that are known at the start, so that its time left means the run."""
    schedule, n_seeds = problem.schedule, problem.spec.confirm.seeds
    limit = math.inf if problem.spec.search.max_cost is None else problem.spec.search.max_cost
    left = limit - problem.confirm_reserve
    ledger.limit_cost(schedule, max_cost=limit)
    numbers = schedule.n_paid(n_first=problem.spec.search.trials, max_cost=left)
    for index, n_plans in enumerate(numbers):
        steps = schedule.new_steps(index)
        ledger.plan_ahead(problem.rung(index), n_measurements=n_plans, new_steps=steps)
    if problem.spec.confirm.fidelity != "none":
        for split in ("confirm", "test"):
            fidelity = schedule.fidelity(split, seed=problem.seed)
            ledger.plan_ahead(fidelity, n_measurements=MAX_TESTED * n_seeds)
