"""The Optuna study: listed plans and the sampler's proposals, each scored by a short run."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution
from optuna.samplers import TPESampler
from optuna.trial import Trial, TrialState

from autopeft.engine.cost import final_runs, slower_heads, smaller_runs
from autopeft.engine.problem import Allowance, Batch, Request, SearchProblem, Steps
from autopeft.space import is_point_of, parameters, parameters_of, plan_of, policy_of_parameters
from autopeft.types import Arm, Measurement, Plan, Proposal, Status

STUDY = "autopeft"
_TRAINER = "trainer."  # begins the names of choices of the user's own trainer
# Finished trials before the sampler models anything: on the tables 3 and 8 have regret 1.1 and 1.4 with four
# proposals, and equal ones with more (research/2026-12-02-proposals.md).
_N_STARTUP = 3
_N_PER_UPDATE = 4  # trials between two updates of the sampler, however many run at once; heuristic


@dataclass(kw_only=True)
class Trials:
    """The trials of a study with their plans and short runs.

    The listed plans are enqueued with all their parameters, so that the sampler learns from them. The value
    of a trial is the loss of its short run. A plan that is not a point of the space, such as the user's
    baseline, has a trial without parameters.
    """

    problem: SearchProblem
    study: optuna.Study
    proposals: list[Proposal] = field(default_factory=list)
    short: dict[Plan, Measurement] = field(default_factory=dict)
    _asked: list[tuple[Trial, Proposal]] = field(default_factory=list)

    def __post_init__(self) -> None:
        problem = self.problem
        of_space = parameters(problem.space)
        self._arms = {plan: arm for arm, _, plan in reversed(problem.listed)}
        for _, policy, plan in problem.listed[: problem.n_trials]:
            drawn: dict[str, Any] = {}
            if policy is not None and is_point_of(problem.space, policy):
                drawn = parameters_of(policy, of_space, problem.space, problem.context.methods)
                drawn |= {_TRAINER + name: value for name, value in plan.choices}
            self.study.enqueue_trial(drawn)
        self._distributions = of_space | {
            _TRAINER + name: CategoricalDistribution(values)
            for name, values in problem.context.choices.items()
        }

    def ask(self, n_trials: int) -> list[tuple[Trial, Proposal]]:
        """Ask for trials: those of listed plans first, then those that the sampler proposes."""
        self.study.sampler = _sampler(self.problem.spec.search.seed, len(self._asked))
        return [self._ask() for _ in range(n_trials)]

    def _ask(self) -> tuple[Trial, Proposal]:
        problem, number = self.problem, len(self._asked)
        if number < len(problem.listed):
            arm, policy, plan = problem.listed[number]
            is_point = policy is not None and is_point_of(problem.space, policy)
            trial = self.study.ask(self._distributions if is_point else None)
            proposal = Proposal(trial=number, arm=arm, source="list", plan=plan)
        else:
            trial = self.study.ask(self._distributions)
            policy = policy_of_parameters(trial.params, problem.space, problem.context.methods)
            choices = [(name, trial.params[_TRAINER + name]) for name in problem.context.choices]
            plan = plan_of(replace(policy, choices=tuple(choices)), problem.context)
            proposal = Proposal(trial=number, arm=policy.arm, source="sampler", plan=plan)
            self._arms.setdefault(plan, policy.arm)
        for name, value in {
            "arm": str(proposal.arm),
            "source": proposal.source,
            "plan": plan.digest,
            "trainable_params": plan.trainable_params,
        }.items():
            trial.set_user_attr(name, value)
        self._asked.append((trial, proposal))
        return self._asked[-1]

    def tell(self, trial: Trial, proposal: Proposal, run: Measurement | None) -> None:
        """Tell the study the loss of a trial's short run; None where the limits left it out."""
        if run is None:
            self.study.tell(trial, state=TrialState.PRUNED)
            return
        self.proposals.append(proposal)
        self.short[proposal.plan] = run
        state = TrialState.COMPLETE
        if run.loss is None:  # the sampler avoids what is pruned, and ignores what failed
            state = TrialState.PRUNED if run.status is Status.DIVERGED else TrialState.FAIL
        self.study.tell(trial, run.loss, state=state)

    def arm(self, plan: Plan) -> Arm:
        """Return the arm under which a plan was listed or first proposed, whatever its head's rate is now."""
        usual = replace(plan, head_factor=1.0)
        if plan in self._arms or usual not in self._arms:
            return self._arms.get(plan, self.problem.head[0])
        arm = self._arms[usual]
        return replace(arm, label=f"{arm.label}, head rate / {1 / plan.head_factor:g}")

    def record_full(self, finished: Mapping[Plan, Sequence[Measurement]]) -> None:
        """Store the losses of full runs with the study, since a finished trial keeps its value."""
        trials = {proposal.plan: proposal.trial for proposal in reversed(self.proposals)}
        content = {
            plan.digest: {"trial": trials.get(plan), "losses": [run.loss for run in runs]}
            for plan, runs in finished.items()
        }
        self.study.set_user_attr("full_runs", content)


def short_runs(problem: SearchProblem, trials: Trials, allowance: Allowance) -> Steps[None]:
    """Measure the listed plans, then proposals of the sampler, as effort, time and cost allow.

    The sampler proposes nothing while listed plans are unmeasured.
    """
    n_trials = problem.n_trials
    n_listed = min(len(problem.listed), n_trials)
    short = problem.lengths.short(seed=problem.seeds[0])
    ahead = [*final_runs(problem), *smaller_runs(problem)]
    finals = [*slower_heads(problem), *problem.full_runs(n_plans=2)]  # what a limit has to cover in any case
    n_asked, is_covered = 0, True
    while n_asked < n_listed or (n_asked < n_trials and is_covered):
        if n_asked < n_listed:
            n_new = min(n_listed - n_asked, allowance.n_at_once)
        else:
            n_new = min(n_trials - n_asked, _N_PER_UPDATE)
        asked, n_asked = trials.ask(n_new), n_asked + n_new
        for start in range(0, n_new, allowance.n_at_once):
            side_by_side = asked[start : start + allowance.n_at_once]
            requests = [Request(each.plan, short, each.arm) for _, each in side_by_side]
            if not (is_covered := is_covered and allowance.covers(requests, finals)):
                covered: list[Request] = []
                for request in requests:
                    if allowance.covers([*covered, request], finals):
                        covered.append(request)
                requests = covered
            n_left = n_trials - n_asked + n_new - start - len(side_by_side)
            runs = yield Batch(
                phase="short runs",
                n_runs=n_trials,
                requests=requests,
                ahead=[*[short] * n_left, *ahead],
                proposals=[proposal for _, proposal in side_by_side],
            )
            by_plan = {run.plan: run for run in runs}
            for trial, proposal in side_by_side:
                trials.tell(trial, proposal, by_plan.get(proposal.plan))
    if not is_covered:
        text = "The limits allow {} of {} short runs; raise --max-time or --max-cost for more."
        yield Batch.note(text.format(len(trials.short), n_trials))


def _sampler(seed: int, n_asked: int) -> TPESampler:
    """Make a sampler that depends on the trials so far alone, so that a resumed search proposes the same."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # of group=True
        return TPESampler(
            multivariate=True,
            group=True,
            constant_liar=True,
            n_startup_trials=_N_STARTUP,
            seed=np.random.SeedSequence([seed, n_asked]).generate_state(1)[0].item(),
        )
