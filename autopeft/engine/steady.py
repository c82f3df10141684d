"""The baseline at a lower learning rate, where a confirming run of it failed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from autopeft.engine.choose import UNLEARNED, lowered
from autopeft.engine.confirm import has_room
from autopeft.engine.finalists import Finalists
from autopeft.engine.judge import Confirmed, scores_of
from autopeft.engine.ledger import Ledger
from autopeft.engine.problem import SearchProblem
from autopeft.engine.ranking import ranked_by_loss
from autopeft.engine.telling import StudyLog
from autopeft.records import Measurement, Plan, Status

_MOST = 2  # lower rates; chosen by hand

log = logging.getLogger(__name__)


def steadied(
    problem: SearchProblem, study_log: StudyLog, named: Finalists, confirmed: Confirmed
) -> tuple[Finalists, Confirmed, tuple[str, ...]]:
    """Finalists and confirmation, with the baseline at a lower rate where it failed on a seed.

    A rate near the one at which training breaks down does well on most seeds and fails on some: no yardstick,
    and no answer. The baseline is trained on the same seeds at a lower rate, as can be paid, which takes its
    place where it is better on average. Returns also what was done, in sentences.
    """
    ledger, said = study_log.ledger, list[str]()
    for _ in range(_MOST):
        plan = named.baseline
        runs = confirmed.get(plan, [])
        n_failed = sum(_has_failed(problem, ledger, run) for run in runs)
        if not n_failed or not plan.adapters:
            break
        failed = f"The baseline failed on {n_failed} of {len(runs)} seeds at the learning rate {_rate(plan)}"
        lower = lowered(plan, problem, arm=ledger.arms[plan])
        again = [] if lower is None else _runs_again(problem, study_log, plan, lower, n_seeds=len(runs))
        if lower is None or len(again) < len(runs):
            said.append(f"{failed}; no lower one could be tried.")
            break
        is_better = _mean(problem, again) > _mean(problem, runs)
        said.append(
            f"{failed}; at {_rate(lower)} it is {'' if is_better else 'not '}better on the same seeds."
        )
        if not is_better:
            break
        confirmed = {lower if known is plan else known: confirmed[known] for known in confirmed}
        confirmed[lower] = again
        named = _with_baseline(named, lower)
    for sentence in said:
        log.warning(sentence)
    return named, confirmed, tuple(said)


def _runs_again(
    problem: SearchProblem, study_log: StudyLog, plan: Plan, lower: Plan, *, n_seeds: int
) -> list[Measurement]:
    """Confirming runs of a plan at its lower rate on as many seeds; none where they cannot be paid."""
    ledger, first = study_log.ledger, problem.confirmation(0)
    if not has_room(problem, ledger, [lower], n_new=n_seeds):
        return []
    ledger.plan_ahead(first, n_measurements=n_seeds)
    if lower not in ledger.arms:
        study_log.measure_extra(ledger.arms[plan], lower, source="retuned", fidelity=first)
    runs = ledger.measure_all([(lower, problem.confirmation(index)) for index in range(n_seeds)])
    return [] if any(run.status.is_of_machine for run in runs) else runs


def _with_baseline(named: Finalists, baseline: Plan) -> Finalists:
    """The finalists with another plan wherever the baseline was."""

    def new(plan: Plan) -> Plan:
        return baseline if plan == named.baseline else plan

    return replace(
        named,
        incumbent=new(named.incumbent),
        best=new(named.best),
        baseline=baseline,
        smallest=new(named.smallest),
    )


def _has_failed(problem: SearchProblem, ledger: Ledger, run: Measurement) -> bool:
    """Whether a full run diverged, or learned no more than the same adapters had at the first rung."""
    if run.loss is None:
        return run.status is Status.DIVERGED
    first = ranked_by_loss(ledger.at(problem.rung(0)).values())
    short = next((m for m in first if m.plan.adapters == run.plan.adapters), None)
    if not problem.schedule.last or short is None or short.loss is None:
        return False
    has_metrics = run.metric is not None and short.metric is not None
    is_better = has_metrics and problem.sign * (run.metric or 0.0) > problem.sign * (short.metric or 0.0)
    return run.loss > UNLEARNED * short.loss and not is_better


def _mean(problem: SearchProblem, runs: Sequence[Measurement]) -> float:
    scores = [score for row in scores_of(problem, list(runs)) for score in row]
    return sum(scores) / len(scores)


def _rate(plan: Plan) -> str:
    return f"{plan.learning_rate:.2g}"
