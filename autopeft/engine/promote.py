"""The rungs above the first: which plans go on, their rates tuned again, and what their losses say."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from autopeft.engine.front import front, is_allowed, thinned
from autopeft.engine.ledger import Ledger, SearchProblem, by_loss, first_error, is_baseline
from autopeft.engine.paired import first_by_metric
from autopeft.engine.propose import Proposer, rate_range
from autopeft.errors import SiteError, TrainingError
from autopeft.evidence import mean_and_std_error, rank_correlation
from autopeft.records import Adapter, Measurement, Plan

_WAVE = 4  # measured between two looks at the clock; fixed, so that the number of workers changes nothing
_N_WIDENED = 2  # more of the best at the last rung, where the rung before ranked badly
LOW_CORRELATION = 0.5  # Spearman between rungs below which the last one is widened; chosen by hand
_SMALL_SHARE = 0.25  # of the budget: the best plan below it goes on too, as a smallest equivalent plan
_SMALLEST_SHARE = 0.5  # of the incumbent's parameters; to save less is not worth a confirmation
_MARGIN = 0.01  # one point, or one percent of a loss
_LOWER = 1.8  # by which a finalist's rate is lowered at the last rung: short rungs favour high rates
_MAX_LOWERED = 2  # times, as long as it helps; once where the last rung is half of a full run or more

Measured = dict[Plan, Measurement]

log = logging.getLogger(__name__)


def climb(problem: SearchProblem, ledger: Ledger, first: Measured) -> list[Measured]:
    """Measure what each rung leaves at the next one; the first rung stands first in the list.

    Raises:
        TrainingError: The first rung left none.
    """
    seen = [first]
    for index in range(1, problem.schedule.last + 1):
        plans = promoted(problem, ledger, seen)
        ledger.release({*seen[-1]} - {*plans})
        seen.append(_measure_rung(problem, ledger, plans, index=index, before=seen[-1]))
    ledger.release(seen[-1])
    return seen


def _measure_rung(
    problem: SearchProblem, ledger: Ledger, plans: Sequence[Plan], *, index: int, before: Measured
) -> Measured:
    schedule = problem.schedule
    fidelity = schedule.rung(index, seed=problem.seed)
    ledger.progress.phase(f"rung {index + 1}", len(plans))
    ledger.plan_ahead(fidelity, n_measurements=len(plans))
    seen: Measured = {}
    for start in range(0, len(plans), _WAVE):
        wave = plans[start : start + _WAVE]
        seconds = len(wave) * ledger.estimate(fidelity, new_steps=schedule.new_steps(index))
        if start and not ledger.has_time_for(seconds=seconds, reserve=ledger.confirm_reserve(problem)):
            log.warning("Time is short: %d of %d plans reach rung %d.", start, len(plans), index + 1)
            break
        ledger.require_time()
        results = ledger.measure_all([(plan, fidelity) for plan in wave])
        seen |= dict(zip(wave, results, strict=True))
    # The baseline's next rates, one by one, where those that went on have all diverged.
    ranked = sorted((m for m in before.values() if m.loss is not None), key=by_loss)
    spare = [m.plan for m in ranked if is_baseline(m.plan, problem, ledger) and m.plan not in seen]
    while spare and not any(m.loss is not None and is_baseline(p, problem, ledger) for p, m in seen.items()):
        plan = spare.pop(0)
        seen[plan] = ledger.measure_all([(plan, fidelity)])[0]
    return seen


def promoted(problem: SearchProblem, ledger: Ledger, seen: Sequence[Measured]) -> list[Plan]:
    """Which plans go on from the last of some rungs, the most important first, since time may run short.

    Each at its best learning rate, as it is tuned again at the last rung: the baseline, the best other
    plans, the best small one, the head alone, and what the user gave; above the first rung also one
    sentinel from the middle of the rest, so that the rank correlation between the rungs is not measured on
    survivors alone.
    """
    rung = len(seen) - 1
    ranked = sorted((m for m in seen[-1].values() if m.loss is not None), key=by_loss)
    if not ranked:
        raise TrainingError(
            f"None of {len(seen[-1])} plans could be trained; the first error was: {first_error(seen[-1])}"
        )
    n_best = problem.schedule.n_best[min(rung, 1)]
    rho = correlation(seen[-2], seen[-1]) if rung else None
    if rho is not None and rho < LOW_CORRELATION:
        log.warning("Spearman between rungs %d and %d is %.2f: the next one is wider.", rung, rung + 1, rho)
        n_best += _N_WIDENED
    baselines = [m.plan for m in ranked if is_baseline(m.plan, problem, ledger)]
    rivals = [
        m for m in ranked if m.plan.adapters and m.plan not in baselines and is_allowed(problem, ledger, m)
    ]
    others = [m.plan for m in rivals]
    best = _one_rate_each(others)[:n_best]
    if problem.spec.search.objective != "score":
        best = [m.plan for m in thinned(front(rivals), n_best + 2)]
    small = [plan for plan in others if plan.trainable_params <= _SMALL_SHARE * problem.context.max_params]
    heads = [m.plan for m in ranked if not m.plan.adapters]
    given = [next(iter(own)) for own in given_plans(problem, ledger, ranked) if own]
    chosen = [*baselines[:1], *best, *small[:1], *heads[:1], *given]
    rest = [plan for plan in others if plan not in chosen] if rung == 0 else []
    return list(dict.fromkeys([*chosen, *rest[len(rest) // 2 :][:1]]))


def _one_rate_each(plans: Sequence[Plan]) -> list[Plan]:
    """The plans, without those whose adapters stand before them at another learning rate."""
    kept: dict[tuple[Adapter, ...], Plan] = {}
    for plan in plans:
        kept.setdefault(plan.adapters, plan)
    return list(kept.values())


def correlation(before: Measured, after: Measured) -> float | None:
    """Spearman's rho of the losses of the plans that two rungs share."""
    shared = [plan for plan in after if plan in before]
    return rank_correlation([before[p].loss for p in shared], [after[p].loss for p in shared])


def retune(problem: SearchProblem, ledger: Ledger, proposer: Proposer, last: Measured) -> Measured:
    """The incumbent and the baseline at lower rates, as long as that helps; both get the same tries.

    Short runs prefer higher learning rates than full ones do, and a rung of a tenth of a run still does.

    Returns:
        The last rung with what was added to it.
    """
    if not problem.schedule.last:
        return last
    fidelity = problem.schedule.rung(problem.schedule.last, seed=problem.seed)
    found: Measured = {}
    incumbent, baseline, _ = choose(problem, ledger, last)
    ledger.progress.phase("rates", len({incumbent, baseline}))
    n_times = _MAX_LOWERED if 2 * fidelity.train_steps < problem.schedule.full_steps else 1
    for plan in dict.fromkeys([incumbent, baseline]):
        for _ in range(n_times):
            tried = {p: m for p, m in (last | found).items() if p.adapters == plan.adapters}
            best = min(tried.values(), key=by_loss).plan
            rate = best.learning_rate / _LOWER
            is_known = any(own.learning_rate < 0.9 * best.learning_rate for own in tried)
            if is_known or rate < rate_range(plan, problem)[0] / _LOWER:
                break
            if not ledger.has_time_for(
                seconds=ledger.estimate(fidelity), reserve=ledger.confirm_reserve(problem)
            ):
                log.warning("Time is short: the rate of plan %s is not tuned again.", plan.digest)
                break
            lower = replace(best, learning_rate=rate)
            arm = ledger.arms[plan]
            proposer.note_beside(arm, lower, source="retuned")
            (found[lower],) = ledger.measure_all([(lower, fidelity)])
            proposer.tell_beside(lower, found[lower])
    ledger.release(found)
    return last | found


def with_margin(problem: SearchProblem, ledger: Ledger, last: Measured) -> SearchProblem:
    """The problem with the margin that the user gave, or 0.01, or 1 % of the baseline's loss.

    The last where less is better and has no bounds: a hundredth is much of some losses, little of others.
    """
    asked = problem.spec.confirm.margin
    if asked is not None:
        return replace(problem, margin=asked)
    baselines = [m for m in last.values() if m.loss is not None and is_baseline(m.plan, problem, ledger)]
    metric = min(baselines, key=by_loss).metric if baselines else None
    if problem.score_span is None and not problem.greater_is_better and metric:
        return replace(problem, margin=_MARGIN * abs(metric))
    return replace(problem, margin=_MARGIN)


def choose(problem: SearchProblem, ledger: Ledger, last: Measured) -> tuple[Plan, Plan, Plan]:
    """Incumbent, baseline, and the candidate for the smallest equivalent plan, all by the last rung.

    Incumbent and baseline are the best by the metric, and by the loss where the metric cannot tell.

    The candidate has the fewest parameters among the plans with at most half of the incumbent's
    whose metric is within the margin and two standard errors of the incumbent's; where there is
    none it is the incumbent. Whether it holds, confirmation says. Where the objective is `params` that
    candidate is the incumbent.

    Raises:
        TrainingError: No learning rate of the baseline could be trained.
        SiteError: No plan keeps to the limits.
    """
    finished = sorted((m for m in last.values() if m.loss is not None), key=by_loss)
    ranked = [m for m in finished if is_allowed(problem, ledger, m)]
    baselines = [m for m in finished if is_baseline(m.plan, problem, ledger)]
    if not ranked and baselines:
        raise SiteError(
            f"None of {len(last)} plans at the last rung keeps to the limits; raise or drop one of them."
        )
    if not baselines:
        failed = {m.plan: m for m in ledger.measured.values() if is_baseline(m.plan, problem, ledger)}
        raise TrainingError(f"No learning rate of the baseline could be trained: {first_error(failed)}")
    incumbent = first_by_metric(problem, ranked)
    _, std_error = mean_and_std_error([incumbent.example_scores], span=problem.score_span)
    floor = problem.sign * (incumbent.metric or 0.0) - problem.margin - 2 * std_error
    most = _SMALLEST_SHARE * incumbent.plan.trainable_params
    small = [
        m for m in ranked if m.plan.trainable_params <= most and problem.sign * (m.metric or 0.0) >= floor
    ]
    smallest = min(small, key=lambda m: (m.plan.trainable_params, by_loss(m)), default=incumbent)
    if problem.spec.search.objective == "params":
        incumbent = smallest
    return incumbent.plan, first_by_metric(problem, baselines).plan, smallest.plan


def given_plans(problem: SearchProblem, ledger: Ledger, ranked: Sequence[Measurement]) -> list[list[Plan]]:
    """For each plan that the user gave its learning rates, in the order of `ranked`."""
    return [[m.plan for m in ranked if ledger.arms.get(m.plan) == arm] for arm, _ in problem.user_plans]
