"""The search: ask, measure, tell; promote; confirm with fresh seeds; verdict.

Everything is decided by the seed and by what was measured, in an order that does not
depend on the executor. A stopped run is continued by running it again with the
measurements that it had.

Inside the folder each file imports only from those before it: ledger → propose → twins, promote → confirm.
"""

from __future__ import annotations

from dataclasses import dataclass

from optuna.storages import BaseStorage

from autopeft import evidence
from autopeft.engine.confirm import MAX_CONFIRMED, MAX_TESTED, confirm, judge, read_test, summaries
from autopeft.engine.ledger import Ledger, Progress, Question, Schedule, rungs
from autopeft.engine.promote import MAX_PROMOTED, choose, promote
from autopeft.engine.propose import Proposer
from autopeft.engine.twins import MAX_PAIRS, NULLS, measure_twins
from autopeft.records import Confirmation, Measurement, Plan, Proposal, Proxy, ScorePair, Verdict

__all__ = ["Ledger", "Outcome", "Progress", "Question", "Schedule", "rungs", "search"]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a search found, before it is put together with its setting."""

    proposals: tuple[Proposal, ...]
    measurements: tuple[Measurement, ...]
    best: Plan
    smallest: Plan
    baseline: Plan
    confirmations: tuple[Confirmation, ...]
    test: tuple[Confirmation, ...]
    verdict: Verdict
    proxy: Proxy
    score_pairs: tuple[ScorePair, ...]


def search(question: Question, ledger: Ledger, *, storage: BaseStorage) -> Outcome:
    """Propose, promote, confirm, judge.

    Args:
        question: What is asked.
        ledger: Measures and remembers; holds every measurement afterwards.
        storage: Where the Optuna study goes; must hold no study named `autopeft`.

    Raises:
        TrainingError: Nothing that was measured finished, or no baseline did.
        StoppedError: The time was up before a verdict.
    """
    _plan_ahead(question, ledger)
    proposer = Proposer(question=question, ledger=ledger, storage=storage)
    first = proposer.run()
    score_pairs = measure_twins(question, ledger, proposer, first)
    second = promote(question, ledger, first)
    best, baseline, smallest = choose(question, ledger, second)
    confirmed = confirm(question, ledger, best=best, baseline=baseline, smallest=smallest)
    verdict = judge(question, confirmed, best=best, baseline=baseline, smallest=smallest)
    named = {"best": best, "smallest": smallest, "baseline": baseline}
    named.update(("head", plan) for plan in confirmed if plan not in (best, smallest, baseline))
    tested = read_test(question, ledger, confirmed, (best, smallest, baseline))
    losses = [(first[p].loss, m.loss) for p, m in second.items() if m.loss is not None]
    rho = evidence.rank_correlation([early for early, _ in losses], [late for _, late in losses])
    return Outcome(
        proposals=tuple(proposer.proposals),
        measurements=tuple(ledger.measured.values()),
        best=best,
        smallest=smallest,
        baseline=baseline,
        confirmations=summaries(question, confirmed, named),
        test=summaries(question, tested, named),
        verdict=verdict,
        score_pairs=score_pairs,
        proxy=Proxy(rank_correlation=rho, n_plans=len(losses), rung_steps=question.schedule.rung_steps),
    )


def _plan_ahead(question: Question, ledger: Ledger) -> None:
    """What is to come, as far as it is known at the start, so that the time left means the whole run."""
    schedule, seed, n_seeds = question.schedule, question.seed, question.spec.confirm.seeds
    first, second = schedule.rung_steps
    n_first = question.spec.search.trials + MAX_PAIRS * len(NULLS)
    planned = [
        (schedule.fidelity("search", steps=first, seed=seed), n_first),
        (schedule.fidelity("search", steps=second, seed=seed), MAX_PROMOTED),
    ]
    if question.spec.confirm.fidelity != "none":
        steps = schedule.confirm_steps
        planned.append((schedule.fidelity("confirm", steps=steps, seed=seed), MAX_CONFIRMED * n_seeds))
        planned.append((schedule.fidelity("test", steps=steps, seed=seed), MAX_TESTED * n_seeds))
    for fidelity, n_measurements in planned:
        ledger.plan_ahead(fidelity, n_measurements=n_measurements)
