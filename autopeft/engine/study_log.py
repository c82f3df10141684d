"""The proposals of a search: what its sampler learns from, and the Optuna study that a run leaves."""

from __future__ import annotations

from dataclasses import dataclass, field

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from autopeft.engine.ledger import Ledger
from autopeft.engine.problem import SearchProblem
from autopeft.records import Arm, Fidelity, Measurement, Plan, Proposal, ProposalSource, Status

STUDY = "autopeft"
_DIVERGED_FACTOR = 2.0  # on the worst loss so far, so that the sampler avoids diverging rates


@dataclass(kw_only=True)
class StudyLog:
    """The proposals of a search in their order, and the study in which its sampler proposes.

    The sampler's study holds the trials that came from the search space, with their losses at the first
    rung; `sampled` has them by the number of their proposal.
    """

    problem: SearchProblem
    ledger: Ledger
    study: optuna.Study
    proposals: list[Proposal] = field(default_factory=list)
    sampled: dict[int, Trial] = field(default_factory=dict)

    def note(self, arm: Arm, plan: Plan, *, source: ProposalSource, trial: Trial | None = None) -> Proposal:
        """The next proposal; `source` says why the plan was proposed, `trial` is that of a sampled one."""
        proposal = Proposal(trial=len(self.proposals), arm=arm, source=source, plan=plan)
        self.proposals.append(proposal)
        if trial is not None:
            self.sampled[proposal.trial] = trial
        self.ledger.note_arm(plan, arm, is_baseline=self.problem.is_baseline(arm))
        return proposal

    def tell(self, proposal: Proposal, measurement: Measurement) -> None:
        """Tell the sampler the loss of a sampled plan, a bad one if it diverged."""
        if proposal.trial not in self.sampled:
            return
        value = measurement.loss
        if measurement.status is Status.DIVERGED:
            value = _DIVERGED_FACTOR * self.ledger.worst_loss()
        state = TrialState.FAIL if value is None else TrialState.COMPLETE
        self.study.tell(self.sampled[proposal.trial], value, state=state)

    def drop(self, n: int) -> None:
        """Forget the last n proposals, since there was no time to measure their plans."""
        del self.proposals[len(self.proposals) - n :]
        self.sampled = {k: trial for k, trial in self.sampled.items() if k < len(self.proposals)}

    def measure_extra(
        self, arm: Arm, plan: Plan, *, source: ProposalSource, fidelity: Fidelity
    ) -> Measurement:
        """Measure a plan that comes after all sampling."""
        self.note(arm, plan, source=source)
        (measurement,) = self.ledger.measure_all([(plan, fidelity)])
        return measurement

    def write(self, storage: BaseStorage) -> None:
        """Write a study with a trial for each proposal and its losses on the search split by training steps.

        A trial that reached the last rung is complete with the loss there (with that of a full run if it had
        that alone), one that did not is pruned, and one none of whose runs finished has failed.
        """
        losses: dict[Plan, dict[int, float]] = {}
        for run in self.ledger.measured.values():
            if run.loss is None:
                continue
            by_steps = losses.setdefault(run.plan, {})
            if run.fidelity.split == "search":
                by_steps.setdefault(run.fidelity.train_steps, run.loss)  # of several seeds the first
        reached = {steps for by_steps in losses.values() for steps in by_steps}
        last = max(reached & set(self.problem.schedule.rung_steps), default=0)
        study = optuna.create_study(study_name=STUDY, storage=storage, direction="minimize")
        study.add_trials([self._finished(p, losses.get(p.plan), last=last) for p in self.proposals])

    def _finished(self, proposal: Proposal, losses: dict[int, float] | None, *, last: int) -> FrozenTrial:
        """A proposal as a finished trial, with its parameters if it was sampled."""
        plan, trial, longest = proposal.plan, self.sampled.get(proposal.trial), max(losses or (), default=-1)
        state = TrialState.FAIL if losses is None else TrialState.PRUNED
        return create_trial(
            state=TrialState.COMPLETE if longest >= last else state,
            value=losses.get(last, losses[longest]) if losses else None,
            params={} if trial is None else trial.params,
            distributions={} if trial is None else trial.distributions,
            user_attrs={
                "arm": str(proposal.arm),
                "source": proposal.source,
                "plan": plan.digest,
                "trainable_params": plan.trainable_params,
            },
            intermediate_values=losses or {},
        )
