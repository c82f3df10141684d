"""Did the score help? The same proposals with a null score in its place, measured beside them."""

from __future__ import annotations

from dataclasses import replace

from autopeft.engine.ledger import Measured
from autopeft.engine.problem import SearchProblem
from autopeft.engine.stopping import has_room
from autopeft.engine.study_log import StudyLog
from autopeft.records import NULL_SCORES, UNEVEN_NULLS, Plan, Proposal, ScorePair
from autopeft.space import Policy, plan_of

MAX_PAIRS = 6  # as many as a test needs (see `report.helped`); each takes a run of the first rung


Twins = dict[str, Plan]  # by the name of the null score


def measure_twins(study_log: StudyLog, first: Measured) -> tuple[ScorePair, ...]:
    """Measure twins of the greedy plan and of the first sampled proposals that used the score.

    A twin has the same method, options, learning rate, steps and seed, and as many layers. Another score
    decides its ranks and layers: `uniform` (even ranks, the last layers) for every proposal, and for the
    first one also `parameters` (a site's size) and `random`. Equal plans are measured once: the uniform
    twin of the greedy plan is the baseline at its learning rate. The order of the proposals decides which
    get twins; their losses would favour the score. Twins are not promoted, since plans so alike would
    crowd out others.

    Returns:
        One pair for each such proposal, none unless the user asks for them. A twin that diverged counts with
        the worst loss of the run.
    """
    problem, ledger = study_log.problem, study_log.ledger
    if not n_twins(problem):
        return ()
    scored = _scored(study_log, first)
    new = {plan for _, twins in scored for plan in twins.values()} - set(first)
    ledger.progress.phase("score check", len(new))
    ledger.plan_ahead(problem.rung(0), n_measurements=len(new))
    measured = dict(first)
    pairs = []
    for proposal, twins in scored:
        if not has_room(problem, ledger, n_plans=len(twins), index=0):
            break
        if ledger.n_new(problem.rung(0), n_measurements=len(twins)):
            ledger.require_time()
        for null, plan in twins.items():
            if plan not in measured:
                arm = replace(proposal.arm, label=f"{proposal.arm.label}, scored {null}")
                measured[plan] = study_log.measure_extra(arm, plan, source="twin", fidelity=problem.rung(0))
        pairs.append(_pair(proposal, twins, measured, worst=ledger.worst_loss()))
    ledger.release(new)
    return tuple(pairs)


def _scored(study_log: StudyLog, first: Measured) -> list[tuple[Proposal, Twins]]:
    """The greedy plan and the first sampled ones whose ranks or layers the score has changed."""
    scored: dict[Plan, tuple[Proposal, Twins]] = {}
    proposed = zip(study_log.proposals, study_log.policies, strict=True)
    for proposal, policy in sorted(proposed, key=lambda entry: entry[0].arm.kind != "greedy"):  # stable
        plan = proposal.plan
        if plan not in first or plan in scored or policy is None or not policy.uses_score:
            continue
        nulls = NULL_SCORES[:1] if scored else NULL_SCORES
        twins = {null: _twin(policy, null, study_log.problem) for null in nulls}
        if twins[NULL_SCORES[0]] != plan:
            scored[plan] = (proposal, twins)
    return list(scored.values())[:MAX_PAIRS]


def n_twins(problem: SearchProblem) -> int:
    """How many twins there are at most: one for each pair, and two more for the first."""
    return MAX_PAIRS + len(UNEVEN_NULLS) if problem.spec.search.check_score else 0


def _twin(policy: Policy, null: str, problem: SearchProblem) -> Plan:
    if null not in UNEVEN_NULLS:
        return plan_of(policy.without_score(), problem.context)
    return plan_of(policy, replace(problem.context, scores=problem.null_scores[null]))


def _pair(proposal: Proposal, twins: Twins, measured: Measured, *, worst: float) -> ScorePair:
    plans = {"with_score": proposal.plan, **twins}
    losses = {name: measured[plan].loss for name, plan in plans.items()}
    return ScorePair(
        arm=str(proposal.arm),
        learning_rate=proposal.plan.learning_rate,
        **{name: worst if loss is None else loss for name, loss in losses.items()},
    )
