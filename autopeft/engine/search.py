"""The search: race a list of plans in short runs, train the best to the end, judge what was finished."""

from __future__ import annotations

from collections.abc import Callable

from optuna.storages import BaseStorage, InMemoryStorage

from autopeft.engine.cost import planned_runs, smaller_runs
from autopeft.engine.finalists import choose_finalists, front
from autopeft.engine.judge import full_runs, judge, read_test, smaller_budgets, train_in_full
from autopeft.engine.problem import SearchProblem
from autopeft.engine.runs import Runs
from autopeft.engine.study import Study
from autopeft.types import Outcome


def search(
    problem: SearchProblem,
    runs: Runs,
    *,
    storage: Callable[[], BaseStorage] = InMemoryStorage,
    watch: Callable[[Study], None] = lambda study: None,
) -> Outcome:
    """Find the plan to hand over, with its finished weights and the evidence for it.

    `runs` holds every measurement afterwards. `storage` opens the storage to which Optuna's trials are
    written; it has no study named `autopeft` yet. `watch` is called once, before the first run.

    Raises:
        TrainingError: No baseline could be trained, or the machine broke off a run that is needed.
    """
    runs.expected.update(planned_runs(problem))  # from which the time left is estimated
    runs.later.update(smaller_runs(problem))
    study = Study(problem=problem, runs=runs, storage=storage())
    watch(study)
    study.measure()  # short runs with one shared seed: the same rows in the same order
    baselines, challengers = choose_finalists(problem, study)
    # Each full run continues its short run if it has one, and its weights are kept.
    baseline, finished = train_in_full(problem, runs, baselines, challengers)
    study.record_full(finished)
    judged = judge(problem, runs, baseline, finished)  # in pairs, on all confirm rows
    tested = read_test(problem, runs, judged)
    sizes = smaller_budgets(problem, runs, judged)
    return Outcome(
        proposals=tuple(study.proposals),
        measurements=tuple(runs.measured.values()),
        best=judged.best,
        baseline=judged.baseline,
        challenger=judged.challenger,
        full_runs=full_runs(problem, runs, judged, finished),
        test=full_runs(problem, runs, judged, tested),
        verdict=judged.verdict,
        front=tuple(front(m for m in study.short.values() if problem.is_allowed(m.plan))),
        sizes=sizes,
    )
