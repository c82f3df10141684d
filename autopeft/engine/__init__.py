"""The search: ask, measure, tell; promote; confirm with fresh seeds; verdict.

Everything is decided by the seed and by what was measured, in an order that does not
depend on the executor. A stopped run is continued by running it again with the
measurements that it had.

Inside the folder each file imports only from those before it:
schedule, samplers, refine → cost, ledger → front, paired → propose → twins, promote → confirm → sentences.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from optuna.storages import BaseStorage

from autopeft.engine.confirm import (
    MAX_CONFIRMED,
    MAX_TESTED,
    confirm,
    finalists,
    judge,
    read_test,
    summaries,
)
from autopeft.engine.cost import search_cost
from autopeft.engine.front import front, is_allowed
from autopeft.engine.ledger import Ledger, Progress, SearchProblem
from autopeft.engine.promote import choose, climb, correlation, retune, with_margin
from autopeft.engine.propose import Proposer, n_proposals
from autopeft.engine.samplers import check_sampler
from autopeft.engine.schedule import Schedule, later_cost, n_first, rungs, stretched
from autopeft.engine.sentences import sentences
from autopeft.engine.twins import measure_twins, n_pairs
from autopeft.records import NULL_SCORES, Confirmation, Measurement, Plan, Proposal, Proxy, ScorePair, Verdict

__all__ = [
    "Ledger",
    "Outcome",
    "Progress",
    "Schedule",
    "SearchProblem",
    "check_sampler",
    "climb",
    "later_cost",
    "n_first",
    "rungs",
    "search",
    "search_cost",
    "stretched",
]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a search found, before it is put together with its setting.

    `front` holds the plans at the last rung that no other beats on both loss and parameters;
    `sentences` say what the evidence says beside the verdict.
    """

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
    front: tuple[Measurement, ...] = ()
    sentences: tuple[str, ...] = ()


def search(problem: SearchProblem, ledger: Ledger, *, storage: BaseStorage) -> Outcome:
    """Propose, promote, confirm, judge.

    Args:
        problem: What is asked.
        ledger: Measures and remembers; holds every measurement afterwards.
        storage: Where the Optuna study goes; must hold no study named `autopeft`.

    Raises:
        TrainingError: Nothing that was measured finished, or no baseline did.
        StoppedError: The time was up before a verdict.
    """
    _plan_ahead(problem, ledger)
    proposer = Proposer(problem=problem, ledger=ledger, storage=storage)
    first = proposer.run()
    score_pairs = measure_twins(problem, ledger, proposer, first)
    seen = climb(problem, ledger, first)
    problem = with_margin(problem, ledger, seen[-1])
    seen[-1] = retune(problem, ledger, proposer, seen[-1])
    best, baseline, smallest = choose(problem, ledger, seen[-1])
    named = finalists(problem, ledger, (best, baseline, smallest))
    confirmed = confirm(problem, ledger, named)
    tested = read_test(problem, ledger, confirmed, named.chief)
    verdict = judge(problem, confirmed, named)
    return Outcome(
        proposals=tuple(proposer.proposals),
        measurements=tuple(ledger.measured.values()),
        best=best,
        smallest=smallest,
        baseline=baseline,
        confirmations=summaries(problem, confirmed, named.named),
        test=summaries(problem, tested, named.named),
        verdict=verdict,
        score_pairs=score_pairs,
        proxy=_proxy(problem, seen),
        sentences=sentences(
            problem, ledger, named=named, confirmed=confirmed, last=seen[-1], verdict=verdict
        ),
        front=tuple(front(m for m in seen[-1].values() if is_allowed(problem, ledger, m))),
    )


def _proxy(problem: SearchProblem, seen: Sequence[Mapping[Plan, Measurement]]) -> Proxy:
    """How alike neighbouring rungs rank the plans that they share."""
    pairs = list(pairwise(seen))
    rhos = tuple(correlation(dict(before), dict(after)) for before, after in pairs)
    return Proxy(
        rank_correlation=rhos[0] if rhos else None,
        n_plans=sum(plan in seen[0] for plan in seen[1]) if pairs else 0,
        rung_steps=problem.schedule.rung_steps,
        rank_correlations=rhos,
    )


def _plan_ahead(problem: SearchProblem, ledger: Ledger) -> None:
    """What is to come, as far as it is known at the start, so that the time left means the whole run."""
    schedule, seed, n_seeds = problem.schedule, problem.seed, problem.spec.confirm.seeds
    n_first = n_proposals(problem) + n_pairs(problem) + len(NULL_SCORES)
    planned = [(schedule.rung(0, seed=seed), n_first)]
    planned += [(schedule.rung(i, seed=seed), schedule.n_promoted(i)) for i in range(1, schedule.last + 1)]
    if problem.spec.confirm.fidelity != "none":
        planned.append((schedule.fidelity("confirm", seed=seed), MAX_CONFIRMED * n_seeds))
        planned.append((schedule.fidelity("test", seed=seed), MAX_TESTED * n_seeds))
        planned.append((schedule.fidelity("general", seed=seed), MAX_TESTED * n_seeds))
    for fidelity, n_measurements in planned:
        ledger.plan_ahead(fidelity, n_measurements=n_measurements)
