"""The search: ask, measure, tell; promote; confirm with fresh seeds; verdict.

Everything is decided by the seed and by what was measured, in an order that does not
depend on the executor. A stopped run is continued by running it again with the
measurements that it had.

Inside the folder each file imports only from those before it: ledger → propose → promote → confirm.
"""

from __future__ import annotations

from dataclasses import dataclass

from optuna.storages import BaseStorage

from autopeft import evidence
from autopeft.engine.confirm import confirm, judge, read_test, summaries
from autopeft.engine.ledger import Ledger, Progress, Question, Schedule, rungs
from autopeft.engine.promote import choose, promote
from autopeft.engine.propose import Proposer
from autopeft.records import Confirmation, Measurement, Plan, Proposal, Proxy, Verdict

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
    schedule = question.schedule
    ledger.plan_ahead("search", schedule.rung_steps[0], n_measurements=question.spec.search.trials)
    proposer = Proposer(question=question, ledger=ledger, storage=storage)
    first = proposer.run()
    second = promote(question, ledger, first)
    best, baseline, smallest = choose(question, ledger, second)
    confirmed = confirm(question, ledger, best=best, baseline=baseline, smallest=smallest)
    verdict = judge(question, confirmed, best=best, baseline=baseline, smallest=smallest)
    named = {"best": best, "smallest": smallest, "baseline": baseline}
    named.update(("head", plan) for plan in confirmed if plan not in (best, smallest, baseline))
    tested = read_test(question, ledger, confirmed, (best, smallest, baseline))
    rho = evidence.rank_correlation([first[p].loss for p in second], [second[p].loss for p in second])
    return Outcome(
        proposals=tuple(proposer.proposals),
        measurements=tuple(ledger.measured.values()),
        best=best,
        smallest=smallest,
        baseline=baseline,
        confirmations=summaries(question, confirmed, named),
        test=summaries(question, tested, named),
        verdict=verdict,
        proxy=Proxy(rank_correlation=rho, n_plans=len(second), rung_steps=schedule.rung_steps),
    )
