"""The first rung: propose plans in waves, measure them, tell the study.

Some proposals are small steps from the best plan so far, or further learning rates of the baseline.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

from autopeft.engine.ledger import Ledger, Measured
from autopeft.engine.problem import SearchProblem
from autopeft.engine.queue import Enqueued, enqueued
from autopeft.engine.ranking import ranked_by_loss
from autopeft.engine.rates import next_rate
from autopeft.engine.samplers import make_sampler
from autopeft.engine.stopping import has_room, n_allowed
from autopeft.engine.study_log import StudyLog
from autopeft.records import Adapter, Arm, Plan, Proposal, ProposalSource
from autopeft.space import AllocationContext, Policy, plan_of, scale_rule, suggest, widened

# Sampled trials before a sampler models anything; chosen by hand.
_N_STARTUP = 8
_NEEDED = ("baseline", "head", "given")  # kinds of the first arms, which are measured whatever they cost
_REFINED_EVERY = 6  # one of so many sampled proposals is a small step from the best plan; chosen by hand
Bounds = Mapping[str, tuple[int, int | None]]  # method -> lowest and highest rank, None for no bound

_MAX_EVENED = 5  # learning rates of the baseline at most, however many another arm has

log = logging.getLogger(__name__)


def measure_first_rung(study_log: StudyLog) -> Measured:
    """Every plan of the first rung with its measurement: the queue, then sampled plans, then more rates."""
    problem, ledger = study_log.problem, study_log.ledger
    queue, n_trials = enqueued(problem), problem.spec.search.trials
    ledger.progress.phase("rung 1", n_trials)
    n_needed = next((i for i, (arm, _) in enumerate(queue) if arm.kind not in _NEEDED), len(queue))
    measured: Measured = {}
    for start in range(0, n_trials, problem.wave):
        n_plans = most = min(problem.wave, n_trials - start)
        if start >= n_needed:
            n_plans = n_allowed(problem, ledger, most=most)
        wave: list[Proposal] = []
        while len(wave) < n_plans:
            wave.append(_propose(study_log, queue, wave=wave))
        results = ledger.measure_in_time(
            [(proposal.plan, problem.rung(0)) for proposal in wave],
            reserve=ledger.verdict_reserve(problem),
            least=0 if start else 1,  # so that there is a run to resume
        )
        for proposal, result in zip(wave, results, strict=False):
            study_log.tell(proposal, result)
            measured[proposal.plan] = result
        if len(results) < len(wave):
            study_log.drop(len(wave) - len(results))
            log.warning("Time is short: rung 1 ends after %d plans.", len(measured))
        if len(results) < most:
            break
    proposed = {proposal.arm for proposal in study_log.proposals}
    for arm in [arm for arm, _ in problem.user_plans if arm not in proposed]:
        log.warning(
            "The plan of %s is not measured, since the trials (%d) or the time end before it. Raise --trials "
            "or --max-time.",
            arm.label,
            n_trials,
        )
    return _even_out(study_log, measured)


def _propose(study_log: StudyLog, queue: Sequence[Enqueued], *, wave: Sequence[Proposal]) -> Proposal:
    """The next proposal: from the queue, a rate of the baseline, a small step from the best plan, or drawn.

    A wave has one further rate of the baseline at most, since the next one depends on its loss.
    """
    problem, number = study_log.problem, len(study_log.proposals)
    context = problem.context
    if number < len(queue):
        arm, content = queue[number]
        if isinstance(content, Plan):
            return study_log.note(arm, content, source="enqueued")
        arm = _named(arm, content, context) if arm.kind == "usual" else arm
        return study_log.note(arm, plan_of(content, context), source="enqueued")
    if not any(proposal.source == "evened" for proposal in wave):
        owed = _owed_rate(study_log)
        if owed is not None:
            return study_log.note(*owed, source="evened")
    n_evened = sum(proposal.source == "evened" for proposal in study_log.proposals)
    # The index among the proposals after the queue decides alone. The random ones are spread evenly; they
    # show what the sampler adds.
    index = number - len(queue) - n_evened
    n_refined, is_refined = index // _REFINED_EVERY, index % _REFINED_EVERY == _REFINED_EVERY - 1
    share, n_drawn = problem.space.random_share, index - n_refined
    is_random = math.floor((n_drawn + 1) * share + 0.5) > math.floor(n_drawn * share + 0.5)
    source: ProposalSource = "random" if is_random and not is_refined else "sampler"
    if is_refined:
        n_before = sum(proposal.source == "refined" for proposal in study_log.proposals)
        refined = _refined_plan(problem, study_log.ledger, n_before=n_before)
        if refined is not None:
            return study_log.note(*refined, source="refined")
    kind = problem.spec.search.sampler if source == "sampler" else "random"
    study_log.study.sampler = make_sampler(kind, seed=problem.seed, number=number, n_startup=_N_STARTUP)
    trial = study_log.study.ask()
    policy = suggest(trial, problem.space, context.methods)
    arm = _named(policy.arm, policy, context)
    return study_log.note(arm, plan_of(policy, context), source=source, trial=trial)


def _named(arm: Arm, policy: Policy, context: AllocationContext) -> Arm:
    """The arm of a policy, by another label where a wider policy takes its place for want of budget."""
    wider = widened(policy, context)
    return arm if wider.arm.label == policy.arm.label else replace(arm, label=wider.arm.label)


def _refined_plan(problem: SearchProblem, ledger: Ledger, *, n_before: int) -> tuple[Arm, Plan] | None:
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


def _owed_rate(study_log: StudyLog) -> tuple[Arm, Plan] | None:
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


def _even_out(study_log: StudyLog, first: Measured) -> Measured:
    """The first rung, with as many learning rates for the baseline as the arm with the most has."""
    problem, ledger, measured = study_log.problem, study_log.ledger, dict(first)
    while has_room(problem, ledger, n_plans=1, index=0):
        owed = _owed_rate(study_log)
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
    for _, donor, receiver in pairs:
        changed = {donor.site: donor, receiver.site: receiver}
        adapters = tuple(changed.get(adapter.site, adapter) for adapter in plan.adapters)
        moved = replace(plan, adapters=adapters)
        if moved not in known:
            return moved
    return None


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
