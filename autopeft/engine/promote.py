"""The rungs above the first: which plans go on, and how alike neighbouring rungs rank them."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from autopeft.engine.ledger import Ledger, Measured, first_error
from autopeft.engine.problem import SearchProblem
from autopeft.engine.ranking import is_allowed, ranked_by_loss
from autopeft.engine.schedule import LEAST_AT_RUNG
from autopeft.engine.stopping import has_room
from autopeft.errors import TrainingError
from autopeft.evidence import rank_correlation
from autopeft.records import Adapter, Measurement, Plan, minus
from autopeft.space import plan_of

_N_WIDENED = 2  # more of the best at the next rung, where a rung ranked badly; chosen by hand
_LOW_CORRELATION = 0.5  # Spearman between rungs below which the next one is widened; chosen by hand
_SMALL_SHARE = 0.25  # of the budget: the best plan below it goes on too, as a smallest equivalent plan

log = logging.getLogger(__name__)


def climb(problem: SearchProblem, ledger: Ledger, first: Measured) -> list[Measured]:
    """The measurements of every rung, the first rung first; each rung measures what the one before leaves.

    Runs of the last rung are kept, since some may go on. The last rungs are missing where the time is too
    short for two of their plans.

    Raises:
        TrainingError: No plan of the first rung could be trained.
    """
    rungs = [first]
    for index in range(1, problem.schedule.last + 1):
        plans = promoted(problem, ledger, rungs)
        ledger.release({*rungs[-1]} - {*plans})
        measured = _measure_rung(problem, ledger, plans, index=index, before=rungs[-1])
        if len(measured) < min(LEAST_AT_RUNG, len(plans)):
            log.warning("Time is short: rung %d ranks the plans.", index)
            break
        rungs.append(measured)
        ledger.release({*plans} - {*rungs[-1]})
    return rungs


def _measure_rung(
    problem: SearchProblem, ledger: Ledger, plans: Sequence[Plan], *, index: int, before: Measured
) -> Measured:
    fidelity = problem.rung(index)
    ledger.progress.phase(f"rung {index + 1}", len(plans))
    new_steps = problem.schedule.new_steps(index)
    ledger.plan_ahead(fidelity, n_measurements=len(plans), new_steps=new_steps)
    measured: Measured = {}
    waiting = list(plans)
    while waiting:
        # All, or as many as can be paid; at first two at least. Those that cost less than they might, since
        # they diverged, leave room for more afterwards.
        least = 0 if measured else LEAST_AT_RUNG
        paid = (
            n for n in range(len(waiting), least, -1) if has_room(problem, ledger, n_plans=n, index=index)
        )
        n_next = next(paid, min(least, len(waiting)))
        if not n_next:
            log.info(
                "%d of %d plans reach rung %d: no more can be paid.", len(measured), len(plans), index + 1
            )
            ledger.plan_ahead(fidelity, n_measurements=0)
            break
        wave, waiting = waiting[:n_next], waiting[n_next:]
        results = ledger.measure_in_time(
            [(plan, fidelity) for plan in wave],
            reserve=ledger.verdict_reserve(problem),
            new_steps=new_steps,
        )
        measured |= dict(zip(wave, results, strict=False))
        if len(results) < len(wave):
            ledger.plan_ahead(fidelity, n_measurements=0)
            return measured
    # Where every promoted baseline has diverged, its next rates follow one by one: a verdict needs one.
    ranked = ranked_by_loss(before.values())
    spare = [m.plan for m in ranked if ledger.is_baseline(m.plan) and m.plan not in measured]
    while spare and not any(ledger.is_baseline(m.plan) for m in ranked_by_loss(measured.values())):
        plan = spare.pop(0)
        (measured[plan],) = ledger.measure_all([(plan, fidelity)])
    return measured


def promoted(problem: SearchProblem, ledger: Ledger, rungs: Sequence[Measured]) -> list[Plan]:
    """Which plans go on from the last of some rungs, the most important first, since time may run short.

    The best baseline and the best other plans come first. From the first rung every placement of the
    baseline goes on at its two best rates, and one sentinel, so that the rank correlation between the rungs
    is not measured on survivors alone. It is LoRA in the layers of the highest score, since early layers
    learn later than a short rung sees, or a plan from the middle of the rest. From every rung the best plan
    of a method that starts slowly goes on, and a small plan, the head alone and what the user brought at
    their best rates.

    Raises:
        TrainingError: No plan of the last rung could be trained.
    """
    ranked = ranked_by_loss(rungs[-1].values())
    if not ranked:
        error = first_error(rungs[-1].values())
        raise TrainingError(f"None of {len(rungs[-1])} plans could be trained; the first error was: {error}")
    first, second = _baselines(ledger, ranked, is_ranked=len(rungs) > 1)
    rivals = [
        m for m in ranked if m.plan.adapters and not ledger.is_baseline(m.plan) and is_allowed(problem, m)
    ]
    one_each: dict[tuple[Adapter, ...], Plan] = {}  # of each set of adapters the plan with the lowest loss
    for measurement in rivals:
        one_each.setdefault(measurement.plan.adapters, measurement.plan)
    n_best = problem.schedule.n_best[min(len(rungs), 2) - 1]
    rho = correlation(rungs[-2], rungs[-1]) if len(rungs) > 1 else None
    if rho is not None and rho < _LOW_CORRELATION:
        text = "Short runs disagree, so more plans go on (ρ = %s of rungs %d and %d)."
        log.info(text, minus(f"{rho:.2f}"), len(rungs) - 1, len(rungs))
        n_best += _N_WIDENED
    best = list(one_each.values())[:n_best]
    small = [m.plan for m in rivals if m.plan.trainable_params <= _SMALL_SHARE * problem.context.max_params]
    heads = [m.plan for m in ranked if not m.plan.adapters]
    user_plans = best_user_plans(problem, ledger, ranked)
    scored: list[Plan] = []
    if len(rungs) == 1:
        policy = problem.in_scored_layers
        adapters = () if policy is None else plan_of(policy, problem.context).adapters
        scored = [m.plan for m in rivals if m.plan.adapters == adapters][:1]
    slow = [m.plan for m in rivals if problem.starts_slowly(m.plan)][:1]
    # `scored` before `slow`: where three plans go on, the other order loses 19 points on digits-1 and gains
    # nothing on five other sets (LOG.md, 2026-11-29).
    chosen = [*first[:1], *best[:1], *scored, *slow, *best[1:2], *first[1:], *user_plans, *heads[:1]]
    chosen += [*best[2:], *second, *small[:1]]
    rest = [m.plan for m in rivals if m.plan not in chosen] if len(rungs) == 1 and not scored else []
    return list(dict.fromkeys([*chosen, *rest[len(rest) // 2 :][:1]]))


def _baselines(
    ledger: Ledger, ranked: Sequence[Measurement], *, is_ranked: bool
) -> tuple[list[Plan], list[Plan]]:
    """The baseline of each placement at its best rate, the best first; and at its second best.

    After a rung that ranks, the best of all remains.
    """
    baselines = [m.plan for m in ranked if ledger.is_baseline(m.plan)]
    if is_ranked:
        return baselines[:1], []
    by_placement: dict[tuple[Adapter, ...], list[Plan]] = {}
    for plan in baselines:
        by_placement.setdefault(plan.adapters, []).append(plan)
    placements = list(by_placement.values())
    return [plans[0] for plans in placements], [plan for plans in placements for plan in plans[1:2]]


def correlation(before: Measured, after: Measured) -> float | None:
    """Spearman's rho of the losses of the plans that two rungs share."""
    shared = [plan for plan in after if plan in before]
    return rank_correlation([before[p].loss for p in shared], [after[p].loss for p in shared])


def best_user_plans(problem: SearchProblem, ledger: Ledger, ranked: Sequence[Measurement]) -> list[Plan]:
    """Each plan that the user brought, at the learning rate that comes first in `ranked`."""
    by_arm = ([m.plan for m in ranked if ledger.arms.get(m.plan) == arm] for arm, _ in problem.user_plans)
    return [plans[0] for plans in by_arm if plans]
