"""The rungs above the first: which plans go on, and how alike neighbouring rungs rank them."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from autopeft.engine.front import front, is_allowed, thinned
from autopeft.engine.ledger import Ledger, Measured, first_error, is_baseline
from autopeft.engine.problem import SearchProblem
from autopeft.engine.ranking import ranked_by_loss
from autopeft.engine.stopping import WAVE
from autopeft.errors import TrainingError
from autopeft.evidence import rank_correlation
from autopeft.records import Adapter, Measurement, Plan

_N_WIDENED = 2  # more of the best at the next rung, where a rung ranked badly; chosen by hand
_LOW_CORRELATION = 0.5  # Spearman between rungs below which the next one is widened; chosen by hand
_SMALL_SHARE = 0.25  # of the budget: the best plan below it goes on too, as a smallest equivalent plan

log = logging.getLogger(__name__)


def climb(problem: SearchProblem, ledger: Ledger, first: Measured) -> list[Measured]:
    """The measurements of every rung, the first rung first; each rung measures what the one before leaves.

    Raises:
        TrainingError: No plan of the first rung could be trained.
    """
    rungs = [first]
    for index in range(1, problem.schedule.last + 1):
        plans = promoted(problem, ledger, rungs)
        ledger.release({*rungs[-1]} - {*plans})
        rungs.append(_measure_rung(problem, ledger, plans, index=index, before=rungs[-1]))
    ledger.release(rungs[-1])
    return rungs


def _measure_rung(
    problem: SearchProblem, ledger: Ledger, plans: Sequence[Plan], *, index: int, before: Measured
) -> Measured:
    fidelity = problem.rung(index)
    ledger.progress.phase(f"rung {index + 1}", len(plans))
    ledger.plan_ahead(fidelity, n_measurements=len(plans))
    measured: Measured = {}
    for start in range(0, len(plans), WAVE):
        wave = plans[start : start + WAVE]
        seconds = len(wave) * ledger.estimate(fidelity, new_steps=problem.schedule.new_steps(index))
        if start and not ledger.has_time_for(seconds=seconds, reserve=ledger.confirm_reserve(problem)):
            log.warning("Time is short: %d of %d plans reach rung %d.", start, len(plans), index + 1)
            break
        ledger.require_time()
        results = ledger.measure_all([(plan, fidelity) for plan in wave])
        measured |= dict(zip(wave, results, strict=True))
    # Where every promoted baseline has diverged, its next rates follow one by one: a verdict needs one.
    ranked = ranked_by_loss(before.values())
    spare = [m.plan for m in ranked if is_baseline(m.plan, problem, ledger) and m.plan not in measured]
    while spare and not any(is_baseline(m.plan, problem, ledger) for m in ranked_by_loss(measured.values())):
        plan = spare.pop(0)
        (measured[plan],) = ledger.measure_all([(plan, fidelity)])
    return measured


def promoted(problem: SearchProblem, ledger: Ledger, rungs: Sequence[Measured]) -> list[Plan]:
    """Which plans go on from the last of some rungs, the most important first, since time may run short.

    The baseline, the best other plans, the best small one, the head alone, and what the user brought, each
    at its best learning rate, since the last rung tunes rates again. From the first rung also one sentinel
    from the middle of the rest, so that the rank correlation between the rungs is not measured on survivors
    alone.

    Raises:
        TrainingError: No plan of the last rung could be trained.
    """
    ranked = ranked_by_loss(rungs[-1].values())
    if not ranked:
        error = first_error(rungs[-1].values())
        raise TrainingError(f"None of {len(rungs[-1])} plans could be trained; the first error was: {error}")
    baselines = [m.plan for m in ranked if is_baseline(m.plan, problem, ledger)]
    rivals = [
        m for m in ranked if m.plan.adapters and m.plan not in baselines and is_allowed(problem, ledger, m)
    ]
    best = _best(problem, rivals, n=problem.schedule.n_best[min(len(rungs), 2) - 1] + _n_widened(rungs))
    small = [m.plan for m in rivals if m.plan.trainable_params <= _SMALL_SHARE * problem.context.max_params]
    heads = [m.plan for m in ranked if not m.plan.adapters]
    user_plans = best_user_plans(problem, ledger, ranked)
    chosen = [*baselines[:1], *best, *small[:1], *heads[:1], *user_plans]
    rest = [m.plan for m in rivals if m.plan not in chosen] if len(rungs) == 1 else []
    return list(dict.fromkeys([*chosen, *rest[len(rest) // 2 :][:1]]))


def _n_widened(rungs: Sequence[Measured]) -> int:
    """How many more plans go on because the last two rungs ranked their common plans differently."""
    last = len(rungs)
    rho = correlation(rungs[-2], rungs[-1]) if last > 1 else None
    if rho is None or rho >= _LOW_CORRELATION:
        return 0
    log.warning("Spearman between rungs %d and %d is %.2f: the next one is wider.", last - 1, last, rho)
    return _N_WIDENED


def _best(problem: SearchProblem, rivals: Sequence[Measurement], *, n: int) -> list[Plan]:
    """The best plans by loss, one for each set of adapters; or a front, where parameters count too."""
    if problem.spec.search.objective != "score":
        return [m.plan for m in thinned(front(rivals), n + 2)]
    kept: dict[tuple[Adapter, ...], Plan] = {}
    for measurement in rivals:
        kept.setdefault(measurement.plan.adapters, measurement.plan)
    return list(kept.values())[:n]


def correlation(before: Measured, after: Measured) -> float | None:
    """Spearman's rho of the losses of the plans that two rungs share."""
    shared = [plan for plan in after if plan in before]
    return rank_correlation([before[p].loss for p in shared], [after[p].loss for p in shared])


def best_user_plans(problem: SearchProblem, ledger: Ledger, ranked: Sequence[Measurement]) -> list[Plan]:
    """Each plan that the user brought, at the learning rate that comes first in `ranked`."""
    by_arm = ([m.plan for m in ranked if ledger.arms.get(m.plan) == arm] for arm, _ in problem.user_plans)
    return [plans[0] for plans in by_arm if plans]
