"""The study: the first plans and Optuna's proposals, each in a short run and each a trial in a storage."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import optuna
from optuna.samplers import TPESampler
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import Trial, TrialState, create_trial

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

    There are two Optuna studies. One in memory holds the trials that the sampler proposed. One in `storage`
    has a trial for each proposal, with its losses by training steps, for people to watch. To write the losses
    of full runs there, this object puts itself between `runs` and their display.
    """

    problem: SearchProblem
    runs: Runs
    storage: BaseStorage
    proposals: list[Proposal] = field(default_factory=list)
    short: dict[Plan, Measurement] = field(default_factory=dict)
    _sampled: dict[int, Trial] = field(default_factory=dict)  # by the number of their proposal
    # Id of a trial without a full run so far -> its plan and the loss of its short run.
    _racing: dict[int, tuple[Plan, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._study_id = self.storage.create_new_study([StudyDirection.MINIMIZE], STUDY)
        self._display, self.runs.progress = self.runs.progress, self

    def measure_first_plans(self) -> None:
        """Propose the first plans of the search space, and measure as many as effort, time and cost allow."""
        listed = self.problem.first_plans
        for arm, plan in listed:
            self.runs.arms.setdefault(plan, arm)
        n_trials = self.problem.n_trials(len(listed))
        self.runs.begin("short runs", [self._fidelity] * n_trials)
        numbered = enumerate(listed[:n_trials])
        self._measure([Proposal(trial=i, arm=arm, source="list", plan=plan) for i, (arm, plan) in numbered])

    def propose_and_measure(self) -> None:
        """Measure Optuna's plans as effort, time and cost allow; none if plans of the list are unmeasured."""
        problem = self.problem
        n_remaining = problem.n_trials(len(self.proposals)) - len(self.proposals)
        if n_remaining <= 0 or len(self.proposals) < len(problem.first_plans):
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
        while n_remaining > 0:
            proposals: list[Proposal] = []
            for _ in range(min(n_remaining, _N_AT_ONCE)):
                trial = study.ask()
                policy = suggest(trial, problem.space, problem.context.methods)
                of_trainer: dict[str, Any] = {
                    name: trial.suggest_categorical(f"trainer.{name}", values)
                    for name, values in problem.context.choices.items()
                }
                policy = replace(policy, choices=tuple(of_trainer.items()))
                number, plan = len(self.proposals) + len(proposals), plan_of(policy, problem.context)
                self._sampled[number] = trial
                self.runs.arms.setdefault(plan, policy.arm)
                proposals.append(Proposal(trial=number, arm=policy.arm, source="sampler", plan=plan))
            if self._measure(proposals) < len(proposals):
                return
            for proposal in proposals:
                loss = self.short[proposal.plan].loss
                study.tell(self._sampled[proposal.trial], math.inf if loss is None else loss)
            n_remaining -= len(proposals)

    def _measure(self, proposals: Sequence[Proposal]) -> int:
        """Measure proposals while limits leave room for two full runs; return how many; else warn.

        What an earlier process measured of them is used beyond the limits, too.
        """
        reserve = self.problem.full_runs(n_plans=2)
        n_workers, n_left_out = self.runs.executor.n_workers, 0
        remaining = iter(proposals)
        while batch := list(islice(remaining, n_workers)):
            logged = [each for each in batch if (each.plan, self._fidelity) in self.runs.earlier]
            n_new = len(batch) - len(logged)
            fidelities = [*[self._fidelity] * len(batch), *reserve]
            if n_new and (n_left_out or not self.runs.has_room(fidelities, [each.plan for each in batch])):
                batch, n_left_out = logged, n_left_out + n_new
            self.proposals += batch
            trial_ids = [self._begin_trial(proposal) for proposal in batch]
            results = self.runs.measure_all((proposal.plan, self._fidelity) for proposal in batch)
            self.short |= {proposal.plan: result for proposal, result in zip(batch, results, strict=True)}
            for trial_id, result in zip(trial_ids, results, strict=True):
                if result.loss is None:
                    self.storage.set_trial_state_values(trial_id, TrialState.FAIL)
                else:
                    self.storage.set_trial_intermediate_value(
                        trial_id, self._fidelity.train_steps, result.loss
                    )
                    self._racing[trial_id] = result.plan, result.loss
        if n_left_out:
            full_run = self.runs.seconds(self.problem.lengths.full(seed=0))
            log.warning(
                "The limits pay %d of %d short runs%s; raise --max-time or --max-cost for more.",
                len(self.short),
                len(self.short) + n_left_out,
                "" if full_run is None else f", as a full run takes about {full_run / 60:.1f} min",
            )
            self.runs.expected[self._fidelity] = self.runs.later[self._fidelity]
        return len(proposals) - n_left_out

    @property
    def _fidelity(self) -> Fidelity:
        return self.problem.lengths.short(seed=self.problem.seeds[0])

    def _begin_trial(self, proposal: Proposal) -> int:
        plan, sampled = proposal.plan, self._sampled.get(proposal.trial)
        trial = create_trial(
            state=TrialState.RUNNING,
            params={} if sampled is None else sampled.params,
            distributions={} if sampled is None else sampled.distributions,
            user_attrs={
                "arm": str(proposal.arm),
                "source": proposal.source,
                "plan": plan.digest,
                "trainable_params": plan.trainable_params,
            },
        )
        return self.storage.create_new_trial(self._study_id, trial)

    def phase(self, name: str, n_measurements: int, *, seconds_left: float | None = None) -> None:
        """Show that a phase begins."""
        self._display.phase(name, n_measurements, seconds_left=seconds_left)

    def measured(self, measurement: Measurement, **about: Any) -> None:
        """Show a measurement; the first full run of a plan completes its trial."""
        steps, loss = measurement.fidelity.train_steps, measurement.loss
        if measurement.fidelity.split == "confirm" and loss is not None:
            racing = [trial_id for trial_id, (plan, _) in self._racing.items() if plan == measurement.plan]
            for trial_id in racing:
                self.storage.set_trial_intermediate_value(trial_id, steps, loss)
                self.storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [loss])
                del self._racing[trial_id]
        self._display.measured(measurement, **about)

    def prune_trials(self) -> None:
        """Set the trials of plans that were not trained in full to pruned."""
        while self._racing:
            trial_id, (_, short_loss) = self._racing.popitem()
            self.storage.set_trial_state_values(trial_id, TrialState.PRUNED, [short_loss])
