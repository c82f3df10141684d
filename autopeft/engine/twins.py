"""Did the score help? The same proposals with a null score in its place, measured beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from autopeft.engine.ledger import Ledger, SearchProblem
from autopeft.engine.propose import Proposer
from autopeft.records import NULL_SCORES, UNEVEN_NULLS, Measurement, Plan, Proposal, ScorePair
from autopeft.space import Policy, plan_of

MAX_PAIRS = 6  # as many as can tell (see `report.helped`); each takes a run of the first rung
_TRIALS_PER_PAIR = 4  # below so many, runs that could not tell anyway would crowd out sampled policies
_LEAST_EXPONENT = 0.25  # below it the ranks hardly follow the score

Twins = Mapping[str, Plan]


@dataclass(frozen=True, kw_only=True)
class _Scored:
    """A proposal that used the score, what it was measured at, and its twins by the name of the null."""

    proposal: Proposal
    policy: Policy
    measurement: Measurement
    twins: Twins


def measure_twins(
    problem: SearchProblem, ledger: Ledger, proposer: Proposer, first: Mapping[Plan, Measurement]
) -> tuple[ScorePair, ...]:
    """Measure the twins of some proposals that used the score: the greedy plan, and the first sampled ones.

    A twin has the same method, options, learning rate, steps and seed, and as many layers; only what
    decides ranks and layers is another score: `uniform` (even ranks, the last layers) for all, and for the
    first also `parameters` (a site's size) and `random`. Equal plans are measured once: the twin of the
    greedy plan by `uniform` is the baseline at its learning rate. Which proposals get twins is settled by
    their order and not by their losses, which would favour the score. A twin that diverged counts with the
    worst loss that was seen.

    They are not promoted: plans so alike would crowd out others.

    Returns:
        One pair for each scored proposal.
    """
    fidelity = problem.schedule.rung(0, seed=problem.seed)
    scored = _scored(problem, proposer, first)
    new = {plan for own in scored for plan in own.twins.values()} - set(first)
    ledger.progress.phase("twins", len(new))
    ledger.plan_ahead(fidelity, n_measurements=len(new))
    measured = dict(first)
    pairs = []
    for own in scored:
        if not proposer.has_time():
            break
        ledger.require_time()
        for null, plan in own.twins.items():
            if plan not in measured:
                arm = replace(own.proposal.arm, label=f"{own.proposal.arm.label}, scored {null}")
                proposer.note_beside(arm, plan, source="twin")
                (measured[plan],) = ledger.measure_all([(plan, fidelity)])
                proposer.tell_beside(plan, measured[plan])
        pairs.append(_pair(own, measured, worst=ledger.worst_loss()))
    ledger.release(new)
    return tuple(pairs)


def _scored(problem: SearchProblem, proposer: Proposer, first: Mapping[Plan, Measurement]) -> list[_Scored]:
    """The greedy plan and the first sampled ones whose ranks or layers would be others without the score."""
    found: dict[Plan, _Scored] = {}
    asked = list(zip(proposer.proposals, proposer.policies, strict=True))
    asked.sort(key=lambda entry: entry[0].arm.kind != "greedy")  # stable
    for proposal, policy in asked:
        measurement = first.get(proposal.plan)
        if measurement is None or policy is None or not uses_score(policy) or proposal.plan in found:
            continue
        nulls = NULL_SCORES[: 1 if found else None]
        twins = {null: _twin(policy, null, problem) for null in nulls}
        if twins[NULL_SCORES[0]] != proposal.plan:
            found[proposal.plan] = _Scored(
                proposal=proposal, policy=policy, measurement=measurement, twins=twins
            )
    return list(found.values())[: n_pairs(problem)]


def n_pairs(problem: SearchProblem) -> int:
    """How many proposals get twins: as many as can tell, or where that is too dear the greedy plan alone."""
    return MAX_PAIRS if problem.first_trials >= _TRIALS_PER_PAIR * MAX_PAIRS else 1


def uses_score(policy: Policy) -> bool:
    """Whether the score decides ranks or layers of a policy or of a part of it."""
    parts = (policy, *policy.beside)
    return any(
        (part.exponent >= _LEAST_EXPONENT and part.ranks_by == "score")
        or part.ranks_by == "spectrum"
        or (part.layers_by == "score" and part.layer_share < 1)
        for part in parts
    )


def _twin(policy: Policy, null: str, problem: SearchProblem) -> Plan:
    if null not in UNEVEN_NULLS:
        return plan_of(_evened(policy), problem.context)
    return plan_of(policy, replace(problem.context, scores=problem.null_scores[null]))


def _evened(policy: Policy) -> Policy:
    """The policy without any score: even ranks, and the last layers."""
    beside = tuple(_evened(part) for part in policy.beside)
    return replace(policy, exponent=0.0, ranks_by="score", layers_by="last", beside=beside)


def _pair(scored: _Scored, measured: Mapping[Plan, Measurement], *, worst: float) -> ScorePair:
    losses = {null: _loss(measured[plan], worst) for null, plan in scored.twins.items() if plan in measured}
    return ScorePair(
        arm=str(scored.proposal.arm),
        learning_rate=scored.proposal.plan.learning_rate,
        with_score=_loss(scored.measurement, worst),
        **losses,
    )


def _loss(measurement: Measurement, worst: float) -> float:
    return worst if measurement.loss is None else measurement.loss
