"""The first rung: propose plans in waves, measure them, tell the study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from optuna.trial import Trial

from autopeft.engine.ledger import Ledger, Measured, is_baseline
from autopeft.engine.problem import SearchProblem
from autopeft.engine.queue import Enqueued, enqueued
from autopeft.engine.ranking import ranked_by_loss
from autopeft.engine.refine import even_out, refined_plan
from autopeft.engine.sources import sampler_for, source_of
from autopeft.engine.stopping import WAVE, may_go_on
from autopeft.engine.telling import StudyLog
from autopeft.records import Arm, Plan, Proposal
from autopeft.space import Policy, parameters_of, plan_of, suggest


def measure_first_rung(problem: SearchProblem, ledger: Ledger, log: StudyLog) -> Measured:
    """Every plan of the first rung with its measurement: the queue, then sampled plans, then more rates."""
    queue, n_trials = enqueued(problem), problem.n_proposals
    ledger.progress.phase("rung 1", n_trials)
    measured: Measured = {}
    for start in range(0, n_trials, WAVE):
        if start >= len(queue) and not may_go_on(problem, ledger, log.proposals):
            break
        if start:  # the first wave is always measured, so that there is a run to resume
            ledger.require_time()
        wave = [_propose(problem, ledger, log, queue) for _ in range(min(WAVE, n_trials - start))]
        results = ledger.measure_all([(proposal.plan, problem.rung(0)) for _, proposal in wave])
        for (trial, proposal), result in zip(wave, results, strict=True):
            log.tell(trial, result)
            measured[proposal.plan] = result
    return measured | even_out(problem, ledger, measured, log.measure_extra)


def _propose(
    problem: SearchProblem, ledger: Ledger, log: StudyLog, queue: Sequence[Enqueued]
) -> tuple[Trial, Proposal]:
    """The next proposal: from the queue, a small step from the best plan, or drawn by a sampler."""
    number = len(log.proposals)
    source = "enqueued" if number < len(queue) else source_of(number - len(queue), problem)
    refined = None
    if source == "refined":
        n_before = sum(proposal.source == "refined" for proposal in log.proposals)
        refined = refined_plan(problem, ledger, n_before=n_before)
        source = "sampler" if refined is None else source
    log.study.sampler = sampler_for(source, problem, number=number)
    if number < len(queue):
        arm, content = queue[number]
        if arm.kind == "greedy" and isinstance(content, Policy):
            content = _at_baseline_rate(arm, content, problem, ledger, log.proposals)
        return _from_queue(problem, log, arm, content)
    trial = log.study.ask()
    if refined is not None:
        return trial, log.note(trial, *refined, source=source)
    policy = suggest(trial, problem.space, problem.context.methods)
    plan = plan_of(policy, problem.context)
    return trial, log.note(trial, policy.arm, plan, source=source, policy=policy)


def _from_queue(
    problem: SearchProblem, log: StudyLog, arm: Arm, content: Policy | Plan
) -> tuple[Trial, Proposal]:
    """A trial with the parameters of a policy, from which the sampler learns; that of a plan has none."""
    if isinstance(content, Plan):
        trial = log.study.ask()
        return trial, log.note(trial, arm, content, source="enqueued")
    space, methods = problem.space, problem.context.methods
    parameters = parameters_of(content, space, methods)
    log.study.enqueue_trial(parameters or {})
    trial = log.study.ask()
    if parameters is not None:
        suggest(trial, space, methods)  # registers the enqueued values
    plan = plan_of(content, problem.context)
    return trial, log.note(trial, arm, plan, source="enqueued", policy=content)


def _at_baseline_rate(
    arm: Arm, policy: Policy, problem: SearchProblem, ledger: Ledger, proposals: Sequence[Proposal]
) -> Policy:
    """The greedy policy at the baseline's best learning rate so far, the second time at its next best.

    The two then differ in ranks alone. The policy keeps its rate where the baseline has no other.
    """
    n_before = sum(proposal.arm == arm for proposal in proposals)
    baselines = (m for m in ledger.measured.values() if is_baseline(m.plan, problem, ledger))
    rates = list(dict.fromkeys(m.plan.learning_rate for m in ranked_by_loss(baselines)))
    return replace(policy, learning_rate=[*rates, policy.learning_rate][min(n_before, len(rates))])
