"""The Optuna study: listed plans and the sampler's proposals, each scored by a short run."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution
from optuna.samplers import TPESampler
from optuna.storages import BaseStorage
from optuna.trial import Trial, TrialState

from autopeft.engine.problem import SearchProblem
from autopeft.engine.runs import Runs
from autopeft.space import is_point_of, parameters, parameters_of, plan_of, policy_of_parameters
from autopeft.types import Fidelity, Measurement, Plan, Proposal, Status

STUDY = "autopeft"
_TRAINER = "trainer."  # begins the names of choices of the user's own trainer
_N_STARTUP = 8  # finished trials before the sampler models anything; heuristic
_N_AT_ONCE = 4  # trials between two updates of the sampler, whatever the workers; heuristic

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Study:
    """The trials of a search with their plans and short runs.

    The listed plans are enqueued with all their parameters, so that the sampler learns from them. The value
    of a trial is the loss of its short run. A plan that is not a point of the space, such as the user's
    baseline, has a trial without parameters.
    """

    problem: SearchProblem
    runs: Runs
    storage: BaseStorage
    proposals: list[Proposal] = field(default_factory=list)
    short: dict[Plan, Measurement] = field(default_factory=dict)
    _trials: dict[int, Trial] = field(default_factory=dict)  # by the number of their proposal

    def __post_init__(self) -> None:
        problem = self.problem
        self._study = optuna.create_study(storage=self.storage, study_name=STUDY)
        of_space = parameters(problem.space)
        for arm, _, plan in problem.listed:
            self.runs.arms.setdefault(plan, arm)
        for _, policy, plan in problem.listed[: problem.n_trials(len(problem.listed))]:
            drawn: dict[str, Any] = {}
            if policy is not None and is_point_of(problem.space, policy):
                drawn = parameters_of(policy, of_space, problem.space, problem.context.methods)
                drawn |= {_TRAINER + name: value for name, value in plan.choices}
            self._study.enqueue_trial(drawn)
        self._distributions = of_space | {
            _TRAINER + name: CategoricalDistribution(values)
            for name, values in problem.context.choices.items()
        }

    def measure(self) -> None:
        """Measure the listed plans, then proposals of the sampler, as effort, time and cost allow.

        The sampler proposes nothing while listed plans are unmeasured.
        """
        problem, n_workers = self.problem, self.runs.executor.n_workers
        n_trials, n_listed = problem.n_trials(len(problem.listed)), len(problem.listed)
        self.runs.begin("short runs", [self._fidelity] * n_trials)
        has_room = True
        while (n_done := len(self._trials)) < n_trials and (has_room or n_done < n_listed):
            self._study.sampler = _sampler(problem.spec.search.seed, n_done)
            end = min(n_listed, n_done + n_workers) if n_done < n_listed else n_done + _N_AT_ONCE
            asked = [self._ask() for _ in range(min(end, n_trials) - n_done)]
            for start in range(0, len(asked), n_workers):
                has_room = self._run(asked[start : start + n_workers], is_limited=not has_room)
        if not has_room:
            self._warn(n_trials)

    def _ask(self) -> Proposal:
        """Ask for the next trial: an enqueued one, or else one that the sampler proposes."""
        problem, number = self.problem, len(self._trials)
        if number < len(problem.listed):
            arm, policy, plan = problem.listed[number]
            is_point = policy is not None and is_point_of(problem.space, policy)
            trial = self._study.ask(self._distributions if is_point else None)
            proposal = Proposal(trial=number, arm=arm, source="list", plan=plan)
        else:
            trial = self._study.ask(self._distributions)
            policy = policy_of_parameters(trial.params, problem.space, problem.context.methods)
            choices = [(name, trial.params[_TRAINER + name]) for name in problem.context.choices]
            plan = plan_of(replace(policy, choices=tuple(choices)), problem.context)
            proposal = Proposal(trial=number, arm=policy.arm, source="sampler", plan=plan)
            self.runs.arms.setdefault(plan, policy.arm)
        assert trial.number == number
        self._trials[number] = trial
        about = {
            "arm": str(proposal.arm),
            "source": proposal.source,
            "plan": plan.digest,
            "trainable_params": plan.trainable_params,
        }
        for name, value in about.items():
            trial.set_user_attr(name, value)
        return proposal

    def _run(self, batch: Sequence[Proposal], *, is_limited: bool) -> bool:
        """Measure the plans of trials side by side, and tell the study their losses.

        If limits leave no room for them and two full runs, or if `is_limited`, only those are used that an
        earlier process measured. Returns whether all were measured.
        """
        fidelities = [*[self._fidelity] * len(batch), *self.problem.full_runs(n_plans=2)]
        new = [each for each in batch if (each.plan, self._fidelity) not in self.runs.earlier]
        if new and (is_limited or not self.runs.has_room(fidelities, [each.plan for each in batch])):
            for proposal in new:
                self._study.tell(self._trials[proposal.trial], state=TrialState.PRUNED)
            batch, is_limited = [each for each in batch if each not in new], True
        self.proposals += batch
        results = self.runs.measure_all((proposal.plan, self._fidelity) for proposal in batch)
        for proposal, result in zip(batch, results, strict=True):
            self.short[proposal.plan] = result
            state = TrialState.COMPLETE
            if result.loss is None:  # the sampler avoids what is pruned, and ignores what failed
                state = TrialState.PRUNED if result.status is Status.DIVERGED else TrialState.FAIL
            self._study.tell(self._trials[proposal.trial], result.loss, state=state)
        return not is_limited

    def record_full(self, finished: Mapping[Plan, Sequence[Measurement]]) -> None:
        """Store the losses of full runs with the study, since a finished trial keeps its value."""
        trials = {proposal.plan: proposal.trial for proposal in reversed(self.proposals)}
        content = {
            plan.digest: {"trial": trials.get(plan), "losses": [run.loss for run in runs]}
            for plan, runs in finished.items()
        }
        self._study.set_user_attr("full_runs", content)

    def _warn(self, n_trials: int) -> None:
        full_run = self.runs.seconds(self.problem.lengths.full(seed=0))
        log.warning(
            "The limits allow %d of %d short runs%s; raise --max-time or --max-cost for more.",
            len(self.short),
            n_trials,
            "" if full_run is None else f", as a full run takes about {full_run / 60:.1f} min",
        )
        self.runs.expected[self._fidelity] = self.runs.later[self._fidelity]

    @property
    def _fidelity(self) -> Fidelity:
        return self.problem.lengths.short(seed=self.problem.seeds[0])


def _sampler(seed: int, n_done: int) -> TPESampler:
    """Make a sampler that depends on the trials so far alone, so that a resumed search proposes the same."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # of group=True
        return TPESampler(
            multivariate=True,
            group=True,
            constant_liar=True,
            n_startup_trials=_N_STARTUP,
            seed=np.random.SeedSequence([seed, n_done]).generate_state(1)[0].item(),
        )
