"""The Optuna study: its trials are listed plans and the sampler's proposals, each with a short run."""

from __future__ import annotations

import warnings
from collections import deque
from dataclasses import replace

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import TPESampler
from optuna.trial import Trial, TrialState

from autopeft.engine.problem import SearchProblem
from autopeft.space import is_point_of, parameters, parameters_of, plan_of, policy_of_parameters
from autopeft.types import Arm, Measurement, Plan, Proposal, Status
from autopeft.types.outcomes import ProposalSource

STUDY = "autopeft"
_TRAINER = "trainer."  # begins the names of choices of the user's own trainer
# Finished trials before the sampler models anything: on the tables 3 and 8 have regret 1.1 and 1.4 with four
# proposals, and equal ones with more (research/2026-12-02-proposals.md).
_N_STARTUP = 3


class Trials:
    """The trials of a study with their plans and short runs.

    Listed plans are enqueued with all their parameters, so that the sampler learns from them; one that is not
    a point of the space, such as the user's, without any. The value of a trial is the loss of its short run.
    """

    def __init__(self, problem: SearchProblem, study: optuna.Study) -> None:
        space, context = problem.space, problem.context
        self.problem = problem
        self.proposals: list[Proposal] = []
        self.short_runs: dict[Plan, Measurement] = {}
        self._study, self._n_asked = study, 0
        of_space = parameters(space)
        of_trainer = {_TRAINER + name: CategoricalDistribution(c) for name, c in context.choices.items()}
        self._distributions: dict[str, BaseDistribution] = {**of_space, **of_trainer}
        self._arms = {plan: arm for arm, _, plan in reversed(problem.listed)}
        self._enqueued: deque[tuple[Arm, Plan, dict[str, BaseDistribution]]] = deque()
        for arm, policy, plan in problem.listed[: problem.n_trials]:
            drawn, distributions = {}, dict[str, BaseDistribution]()
            if policy is not None and is_point_of(space, policy):
                drawn = parameters_of(policy, of_space, space, context.methods)
                drawn |= {_TRAINER + name: value for name, value in plan.choices}
                distributions = self._distributions
            study.enqueue_trial(drawn)
            self._enqueued.append((arm, plan, distributions))

    def ask(self, n_trials: int) -> list[tuple[Trial, Proposal]]:
        """Ask for trials: those of listed plans first, then those that the sampler proposes."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._study.set_metric_names(["loss of the short run"])
            # Seeded by the trials so far alone, so that a resumed search proposes the same.
            seed = np.random.SeedSequence([self.problem.spec.search.seed, self._n_asked])
            self._study.sampler = TPESampler(
                multivariate=True,
                group=True,
                constant_liar=True,
                n_startup_trials=_N_STARTUP,
                seed=seed.generate_state(1)[0].item(),
            )
        return [self._ask() for _ in range(n_trials)]

    def _ask(self) -> tuple[Trial, Proposal]:
        source: ProposalSource = "list" if self._enqueued else "sampler"
        if self._enqueued:
            arm, plan, distributions = self._enqueued.popleft()
            trial = self._study.ask(distributions)
        else:
            context, trial = self.problem.context, self._study.ask(self._distributions)
            policy = policy_of_parameters(trial.params, self.problem.space, context.methods)
            choices = tuple((name, trial.params[_TRAINER + name]) for name in context.choices)
            arm, plan = policy.arm, plan_of(replace(policy, choices=choices), context)
            self._arms.setdefault(plan, arm)
        facts: dict[str, object] = {"arm": str(arm), "source": source, "plan_id": plan.digest}
        facts |= {"learning_rate": plan.learning_rate, "trainable_params": plan.trainable_params}
        for name, value in facts.items():  # named as in trials.csv
            trial.set_user_attr(name, value)
        self._n_asked += 1
        return trial, Proposal(trial=self._n_asked - 1, arm=arm, source=source, plan=plan)

    def tell(self, trial: Trial, proposal: Proposal, run: Measurement | None) -> None:
        """Tell the study the loss of a trial's short run; None where the limits left it out."""
        state = TrialState.COMPLETE
        if run is None or run.status is Status.DIVERGED:
            state = TrialState.PRUNED  # which the sampler avoids
        elif run.loss is None:
            state = TrialState.FAIL  # which the sampler ignores
        if run is not None:
            self.proposals.append(proposal)
            self.short_runs[proposal.plan] = run
        self._study.tell(trial, run.loss if run is not None else None, state=state)

    def arm(self, plan: Plan) -> Arm:
        """Return the arm under which a plan was listed or first proposed, whatever its head's rate is now."""
        usual = replace(plan, head_factor=1.0)
        if plan in self._arms or usual not in self._arms:
            return self._arms.get(plan, self.problem.head[0])
        arm = self._arms[usual]
        return replace(arm, label=f"{arm.label}, head rate / {1 / plan.head_factor:g}")
