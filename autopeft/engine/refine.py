"""Refinement: small steps from the best plan so far, and more learning rates for the baseline."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

from autopeft.engine.ledger import Ledger, Measured
from autopeft.engine.problem import SearchProblem
from autopeft.engine.ranking import ranked_by_loss
from autopeft.engine.rates import next_rate
from autopeft.engine.stopping import has_room
from autopeft.engine.study_log import StudyLog
from autopeft.records import Adapter, Arm, Plan
from autopeft.space import AllocationContext, scale_rule

Bounds = Mapping[str, tuple[int, int | None]]  # method -> lowest and highest rank, None for no bound

_MAX_EVENED = 5  # learning rates of the baseline at most, however many another arm has


def refined_plan(problem: SearchProblem, ledger: Ledger, *, n_before: int) -> tuple[Arm, Plan] | None:
    """A small step from the best plan of the first rung that is no baseline; None where none is new.

    Every other step (by `n_before`, the number of steps before it) changes the learning rate first, the
    others the ranks.
    """
    measured = ledger.at(problem.rung(0))
    ranked = (m.plan for m in ranked_by_loss(measured.values()))
    rivals = (plan for plan in ranked if plan.adapters and not ledger.is_baseline(plan))
    best = next(rivals, None)
    if best is None:
        return None
    arm = ledger.arms[best]
    at_next_rate = _at_next_rate(best, problem, measured, arm=arm)
    bounds = problem.rank_bounds(best, arm)
    moved = moved_ranks(best, problem.context, bounds=bounds, known=set(measured))
    steps = [at_next_rate, moved] if n_before % 2 == 0 else [moved, at_next_rate]
    new = (step for step in steps if step is not None and step not in measured)
    return next(((arm, step) for step in new), None)


def _at_next_rate(
    plan: Plan, problem: SearchProblem, measured: Measured, *, arm: Arm, most: float = math.inf
) -> Plan | None:
    """The plan at the next learning rate to try; None where there is none, or where `most` are tried.

    Where the plan's own rate lies in the range of its arm, the next one does too, although another arm may
    have tried the same adapters elsewhere.
    """
    low, high = bounds = problem.rate_range(plan, arm)
    same = [m for m in measured.values() if m.plan.adapters == plan.adapters]
    losses = {m.plan.learning_rate: math.inf if m.loss is None else m.loss for m in same}
    if len(losses) >= most:
        return None
    inside = {rate: loss for rate, loss in losses.items() if low <= rate <= high}
    rate = next_rate(inside if plan.learning_rate in inside else losses, bounds)
    return None if rate is None else replace(plan, learning_rate=rate)


def owed_rate(study_log: StudyLog) -> tuple[Arm, Plan] | None:
    """The best baseline so far at its next learning rate, where another arm has been tried at more rates.

    None where the baseline has as many rates as any arm, or enough, or where no rate is left to try.
    """
    problem, ledger = study_log.problem, study_log.ledger
    rates: dict[Arm, set[float]] = {}  # of the arms that the sampler can propose
    for proposal in study_log.proposals:
        if proposal.arm.kind not in ("head", "baseline"):
            rates.setdefault(proposal.arm, set()).add(proposal.plan.learning_rate)
    most = min(_MAX_EVENED, max(map(len, rates.values()), default=0))
    measured = ledger.at(problem.rung(0))
    baselines = ranked_by_loss(m for m in measured.values() if ledger.is_baseline(m.plan))
    if not problem.has_baseline or not baselines:
        return None
    best = baselines[0].plan
    arm = ledger.arms[best]
    at_next_rate = _at_next_rate(best, problem, measured, arm=arm, most=most)
    return None if at_next_rate is None else (arm, at_next_rate)


def even_out(study_log: StudyLog, first: Measured) -> Measured:
    """The first rung, with as many learning rates for the baseline as the arm with the most has."""
    problem, ledger, measured = study_log.problem, study_log.ledger, dict(first)
    while has_room(problem, ledger, n_plans=1, index=0):
        owed = owed_rate(study_log)
        if owed is None:
            break
        arm, plan = owed
        measured[plan] = study_log.measure_extra(arm, plan, source="evened", fidelity=problem.rung(0))
    return measured


def moved_ranks(
    plan: Plan, context: AllocationContext, *, bounds: Bounds, known: Collection[Plan]
) -> Plan | None:
    """The plan with one step of rank moved between two sites at equal cost, to where it earns most.

    A step of rank earns the site's score per parameter over the rank, as in the allocator. The scale of both
    adapters follows the rule of the others. None where every such move gives a known plan.

    Args:
        plan: As it was measured.
        context: Sites with their scores, methods with their costs.
        bounds: Method -> the lowest and the highest rank of an adapter; one that is missing moves no rank.
        known: Plans that are not proposed again.
    """
    for donor, receiver in _moves(plan, context, bounds):
        changed = {donor.site: donor, receiver.site: receiver}
        adapters = tuple(changed.get(adapter.site, adapter) for adapter in plan.adapters)
        moved = replace(plan, adapters=adapters)
        if moved not in known:
            return moved
    return None


def _moves(plan: Plan, context: AllocationContext, bounds: Bounds) -> list[tuple[Adapter, Adapter]]:
    """Adapters with a rank less and a rank more, the most promising pair first."""
    fewer, more = (
        [step for adapter in plan.adapters for step in _steps(adapter, plan, context, bounds, by=by)]
        for by in (-1, 1)
    )
    pairs = [
        (gain - loss, donor, receiver)
        for loss, price, donor in fewer
        for gain, cost, receiver in more
        if price == cost and donor.site != receiver.site and donor.method == receiver.method
    ]
    pairs.sort(key=lambda pair: (-pair[0], pair[1].site, pair[2].site))
    return [(donor, receiver) for _, donor, receiver in pairs]


def _steps(
    adapter: Adapter, plan: Plan, context: AllocationContext, bounds: Bounds, *, by: int
) -> Iterator[tuple[float, int, Adapter]]:
    """What a step of rank earns, its parameters, and the adapter after it; nothing where there is none."""
    method = context.methods[adapter.method]
    if not method.ranked or method.name not in bounds:
        return
    site = next(site for site in context.sites if site.name == adapter.site)
    options = dict(adapter.options)
    lowest, highest = bounds[method.name]
    ranks = [r for r in method.ranks(site, options) if lowest <= r <= (highest or r)]
    at = ranks.index(adapter.rank) + by if adapter.rank in ranks else -1
    if 0 <= at < len(ranks):
        costs = [method.cost(site, rank, options) for rank in (adapter.rank, ranks[at])]
        price = abs(costs[1] - costs[0])
        earned = context.scores[site.name] / price / max(adapter.rank, ranks[at])
        rule = scale_rule(method, plan.adapters)
        scale = adapter.scale if rule is None else method.scale(ranks[at], scale_rule=rule)
        yield earned, price, replace(adapter, rank=ranks[at], scale=scale)
