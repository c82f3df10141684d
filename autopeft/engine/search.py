"""The search: race plans in short runs, train the best to the end, judge what was finished."""

from __future__ import annotations

import optuna

from autopeft.engine.finalists import choose_finalists, front
from autopeft.engine.judge import full_runs, judge, read_test, smaller_budgets, train_in_full
from autopeft.engine.problem import Allowance, SearchProblem, Steps
from autopeft.engine.study import Trials, short_runs
from autopeft.types import Outcome


def search(problem: SearchProblem, study: optuna.Study, allowance: Allowance) -> Steps[Outcome]:
    """Yield the runs to measure, receive their measurements, and return the plan found and its evidence.

    The search does no I/O: whoever sends it the measurements trains, stores and displays (see `Driver`).
    `study` is new: what an earlier process measured is sent again. The caller adds the measurements to the
    outcome.

    Raises:
        TrainingError: No baseline could be trained, or the machine broke off a run that is needed.
    """
    trials = Trials(problem=problem, study=study)
    yield from short_runs(problem, trials, allowance)  # one seed: the same rows in the same order
    baselines, challengers = choose_finalists(problem, trials)
    # Each full run continues its short run if it has one, and its weights are kept.
    baseline, finished = yield from train_in_full(problem, trials, allowance, baselines, challengers)
    trials.record_full(finished)
    judged = judge(problem, trials, baseline, finished)  # in pairs, on all confirm rows
    tested = yield from read_test(problem, trials, judged)
    sizes = yield from smaller_budgets(problem, trials, allowance, judged)
    return Outcome(
        proposals=tuple(trials.proposals),
        measurements=(),
        best=judged.best,
        baseline=judged.baseline,
        challenger=judged.challenger,
        full_runs=full_runs(problem, trials, judged, finished),
        test=full_runs(problem, trials, judged, tested),
        verdict=judged.verdict,
        front=tuple(front(m for m in trials.short.values() if problem.is_allowed(m.plan))),
        sizes=sizes,
    )
