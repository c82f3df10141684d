"""The first rung: propose plans in waves, measure them, tell the study."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace

from autopeft.engine.ledger import Measured
from autopeft.engine.queue import Enqueued, enqueued
from autopeft.engine.samplers import make_sampler
from autopeft.engine.stopping import n_allowed
from autopeft.engine.study_log import StudyLog
from autopeft.records import Arm, Plan, Proposal, ProposalSource
from autopeft.space import AllocationContext, Policy, plan_of, suggest, widened

# Sampled trials before a sampler models anything; chosen by hand.
_N_STARTUP = 8
_NEEDED = ("baseline", "head", "given")  # kinds of the first arms, which are measured whatever they cost

log = logging.getLogger(__name__)


def measure_first_rung(study_log: StudyLog) -> Measured:
    """Every plan of the first rung with its measurement: the queue, then sampled plans."""
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
            wave.append(_propose(study_log, queue))
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
    return measured


def _propose(study_log: StudyLog, queue: Sequence[Enqueued]) -> Proposal:
    """The next proposal: from the queue, or drawn."""
    problem, number = study_log.problem, len(study_log.proposals)
    context = problem.context
    if number < len(queue):
        arm, content = queue[number]
        if isinstance(content, Plan):
            return study_log.note(arm, content, source="enqueued")
        arm = _named(arm, content, context) if arm.kind == "usual" else arm
        return study_log.note(arm, plan_of(content, context), source="enqueued")
    # The index among the proposals after the queue decides alone. The random ones are spread evenly; they
    # show what the sampler adds.
    index, share = number - len(queue), problem.space.random_share
    is_random = math.floor((index + 1) * share + 0.5) > math.floor(index * share + 0.5)
    source: ProposalSource = "random" if is_random else "sampler"
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
