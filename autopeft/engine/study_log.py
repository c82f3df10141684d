"""What the Optuna study holds: each proposal's attributes and its loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import optuna
from optuna.trial import Trial, TrialState, create_trial

from autopeft.engine.ledger import Ledger
from autopeft.engine.problem import SearchProblem
from autopeft.records import Adapter, Arm, Fidelity, Measurement, Plan, Proposal, ProposalSource, Status
from autopeft.space import Policy

_DIVERGED_FACTOR = 2.0  # on the worst loss so far, so that the sampler avoids diverging rates


@dataclass(kw_only=True)
class StudyLog:
    """The Optuna study and its proposals, in the order of their trials.

    Trials that were dropped for lack of time have no proposal; nothing is sampled after them.

    Every loss in the study was measured at the first rung; for a plan whose source is `retuned`, which is
    added after all sampling, at the last one or in full. `policies` stand beside the proposals; None for a
    plan that comes from no policy.
    """

    problem: SearchProblem
    ledger: Ledger
    study: optuna.Study
    proposals: list[Proposal] = field(default_factory=list)
    policies: list[Policy | None] = field(default_factory=list)

    def note(
        self, trial: Trial, arm: Arm, plan: Plan, *, source: ProposalSource, policy: Policy | None = None
    ) -> Proposal:
        """The proposal of a trial, with its attributes in the study."""
        proposal = self._append(trial.number, arm, plan, source=source, policy=policy)
        for name, value in _attributes(proposal).items():
            trial.set_user_attr(name, value)
        return proposal

    def policy_with(self, adapters: tuple[Adapter, ...]) -> Policy | None:
        """The policy of the first proposal with these adapters; None where they come from no policy."""
        pairs = zip(self.proposals, self.policies, strict=True)
        return next(
            (p for proposal, p in pairs if p is not None and proposal.plan.adapters == adapters), None
        )

    def tell(self, trial: Trial, measurement: Measurement) -> None:
        """Finish a trial: with its loss, a bad one where it diverged, or as failed where it broke off."""
        if measurement.loss is not None:
            self.study.tell(trial, measurement.loss)
        elif measurement.status is Status.DIVERGED:
            self.study.tell(trial, _DIVERGED_FACTOR * self.ledger.worst_loss())
        else:
            self.study.tell(trial, state=TrialState.FAIL)

    def drop(self, trials: Sequence[Trial]) -> None:
        """Finish the last trials as failed, since there was no time to measure their plans."""
        for trial in trials:
            self.study.tell(trial, state=TrialState.FAIL)
        del self.proposals[len(self.proposals) - len(trials) :]
        del self.policies[len(self.proposals) :]

    def measure_extra(
        self, arm: Arm, plan: Plan, *, source: ProposalSource, fidelity: Fidelity
    ) -> Measurement:
        """Measure a plan that is no sampled proposal, and add it as a finished trial.

        `source` says why the plan was proposed (see `Proposal`).
        """
        number = len(self.study.get_trials(deepcopy=False))
        proposal = self._append(number, arm, plan, source=source, policy=None)
        (measurement,) = self.ledger.measure_all([(plan, fidelity)])
        state = TrialState.FAIL if measurement.loss is None else TrialState.COMPLETE
        trial = create_trial(value=measurement.loss, state=state, user_attrs=_attributes(proposal))
        self.study.add_trial(trial)
        return measurement

    def _append(
        self, number: int, arm: Arm, plan: Plan, *, source: ProposalSource, policy: Policy | None
    ) -> Proposal:
        proposal = Proposal(trial=number, arm=arm, source=source, plan=plan)
        self.proposals.append(proposal)
        self.policies.append(policy)
        self.ledger.note_arm(plan, arm, is_baseline=self.problem.is_baseline(arm))
        return proposal


def _attributes(proposal: Proposal) -> dict[str, str | int]:
    """User attributes of a trial."""
    arm, source, plan = str(proposal.arm), proposal.source, proposal.plan
    return {"arm": arm, "source": source, "plan": plan.digest, "trainable_params": plan.trainable_params}
