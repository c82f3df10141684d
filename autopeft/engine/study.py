"""The study: the first plans and Optuna's proposals, each in a short run, and the trials that it leaves."""

from __future__ import annotations

import logging
import math
import statistics
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

import optuna
from optuna.samplers import TPESampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from autopeft.engine.problem import SearchProblem
from autopeft.engine.runs import Runs
from autopeft.records import Fidelity, Measurement, Plan, Proposal
from autopeft.space import plan_of, suggest

STUDY = "autopeft"
_N_STARTUP = 8  # sampled trials before the sampler models anything; chosen by hand
_N_AT_ONCE = 4  # trials between two updates of the sampler, whatever the workers; chosen by hand

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Study:
    """The proposals of a search with their short runs.

    The Optuna study in memory holds the trials that the sampler proposed; `write` leaves one with all trials.
    """

    problem: SearchProblem
    runs: Runs
    proposals: list[Proposal] = field(default_factory=list)
    short: dict[Plan, Measurement] = field(default_factory=dict)
    _sampled: dict[int, Trial] = field(default_factory=dict)  # by the number of their proposal

    def measure_first_plans(self) -> None:
        """Propose the list of the search space, and measure as much of it as the limits pay."""
        listed = self.problem.first_plans
        for arm, plan in listed:
            self.runs.arms.setdefault(plan, (arm, self.problem.is_baseline(arm)))
        n_trials = self.problem.n_trials(len(listed))
        self.runs.begin("short runs", [self._fidelity] * n_trials)
        numbered = enumerate(listed[:n_trials])
        self._measure([Proposal(trial=i, arm=arm, source="list", plan=plan) for i, (arm, plan) in numbered])

    def propose_and_measure(self) -> None:
        """Let Optuna propose as many plans as the effort asks for beyond the list, and the limits pay."""
        problem = self.problem
        n_left = problem.n_trials(len(self.proposals)) - len(self.proposals)
        if n_left <= 0 or len(self.proposals) < len(problem.first_plans):  # the limits cut the list
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # of group=True
            sampler = TPESampler(
                multivariate=True,
                group=True,
                constant_liar=True,
                n_startup_trials=_N_STARTUP,
                seed=problem.spec.search.seed,
            )
        study = optuna.create_study(sampler=sampler)
        # One run that diverged would hide the differences between good ones from the sampler.
        losses = [m.loss for m in self.short.values() if m.loss is not None]
        worst = 2 * statistics.median(losses) - min(losses) if losses else math.inf
        while n_left > 0:
            proposals: list[Proposal] = []
            for _ in range(min(n_left, _N_AT_ONCE)):
                trial = study.ask()
                policy = suggest(trial, problem.space, problem.context.methods)
                number, plan = len(self.proposals) + len(proposals), plan_of(policy, problem.context)
                self._sampled[number] = trial
                self.runs.arms.setdefault(plan, (policy.arm, False))
                proposals.append(Proposal(trial=number, arm=policy.arm, source="sampler", plan=plan))
            n_measured = self._measure(proposals)
            for proposal in proposals[:n_measured]:
                loss = self.short[proposal.plan].loss
                study.tell(self._sampled[proposal.trial], worst if loss is None else min(loss, worst))
            if n_measured < len(proposals):
                return
            n_left -= len(proposals)

    def _measure(self, proposals: Sequence[Proposal]) -> int:
        """Measure proposals in order, as many as the limits pay beside the full runs; returns how many."""
        reserve = self.problem.full_runs(n_plans=2)
        n_workers, n_done = self.runs.executor.n_workers, 0
        remaining = iter(proposals)
        while batch := list(islice(remaining, n_workers)):
            if not self.runs.has_room([*(self._fidelity for _ in batch), *reserve]):
                log.warning(
                    "The limits pay %d of %d short runs; raise --max-time or --max-cost for more.",
                    len(self.short),
                    len(self.short) + len(proposals) - n_done,
                )
                self.runs.expected[self._fidelity] = 0
                break
            results = self.runs.measure_all((proposal.plan, self._fidelity) for proposal in batch)
            self.short |= {proposal.plan: result for proposal, result in zip(batch, results, strict=True)}
            self.proposals += batch
            n_done += len(batch)
        return n_done

    @property
    def _fidelity(self) -> Fidelity:
        return self.problem.lengths.short(seed=self.problem.seeds[0])

    def write(self, storage: BaseStorage) -> None:
        """Write a study with a trial for each proposal: its losses by training steps.

        A trial that was trained in full is complete, one that was not is pruned, and one that did not finish
        has failed.
        """
        losses: dict[Plan, dict[int, float]] = {}
        for run in self.runs.measured.values():
            if run.loss is not None and run.fidelity.split != "test":
                losses.setdefault(run.plan, {}).setdefault(run.fidelity.train_steps, run.loss)
        study = optuna.create_study(study_name=STUDY, storage=storage, direction="minimize")
        study.add_trials([self._finished(p, losses.get(p.plan, {})) for p in self.proposals])

    def _finished(self, proposal: Proposal, losses: Mapping[int, float]) -> FrozenTrial:
        plan, trial = proposal.plan, self._sampled.get(proposal.trial)
        is_full = self.problem.lengths.full_steps in losses
        state = (TrialState.COMPLETE if is_full else TrialState.PRUNED) if losses else TrialState.FAIL
        return create_trial(
            state=state,
            value=losses[max(losses)] if losses else None,
            params={} if trial is None else trial.params,
            distributions={} if trial is None else trial.distributions,
            user_attrs={
                "arm": str(proposal.arm),
                "source": proposal.source,
                "plan": plan.digest,
                "trainable_params": plan.trainable_params,
            },
            intermediate_values=dict(losses),
        )
