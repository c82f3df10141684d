"""The first rung: propose plans in waves, measure them, tell the study."""

from __future__ import annotations

import copy
import logging
import math
import statistics
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.search_space import intersection_search_space
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from autopeft.engine.ledger import Measured
from autopeft.engine.queue import Enqueued, enqueued
from autopeft.engine.stopping import n_allowed
from autopeft.engine.study_log import StudyLog
from autopeft.records import MAX_SEED, Arm, Plan, Proposal, ProposalSource
from autopeft.space import AllocationContext, Policy, plan_of, suggest, widened

# Sampled trials before a sampler models anything; chosen by hand.
_N_STARTUP = 8
_NEEDED = ("baseline", "head", "given")  # kinds of the first arms, which are measured whatever they cost
# Trials from which `auto` takes TPE: a process with 100 trials and five parameters takes seconds a proposal.
# Chosen by hand.
_MANY_TRIALS = 60

log = logging.getLogger(__name__)


def measure_first_rung(study_log: StudyLog) -> Measured:
    """Every plan of the first rung with its measurement: the queue, then sampled plans."""
    problem, ledger = study_log.problem, study_log.ledger
    queue, n_trials = enqueued(problem), problem.spec.search.trials
    ledger.progress.phase("rung 1", n_trials)
    n_needed = next((i for i, (arm, _) in enumerate(queue) if arm.kind not in _NEEDED), len(queue))
    measured: Measured = {}
    for start in range(0, n_trials, problem.wave):
        n_plans = most = min(problem.wave, n_trials - start)
        if start >= n_needed:
            n_plans = n_allowed(problem, ledger, most=most)
        wave: list[Proposal] = []
        while len(wave) < n_plans:
            wave.append(_propose(study_log, queue))
        results = ledger.measure_in_time(
            [(proposal.plan, problem.rung(0)) for proposal in wave],
            reserve=ledger.verdict_reserve(problem),
            least=0 if start else 1,  # so that there is a run to resume
        )
        for proposal, result in zip(wave, results, strict=False):
            study_log.tell(proposal, result)
            measured[proposal.plan] = result
        if len(results) < len(wave):
            study_log.drop(len(wave) - len(results))
            log.warning("Time is short: rung 1 ends after %d plans.", len(measured))
        if len(results) < most:
            break
    proposed = {proposal.arm for proposal in study_log.proposals}
    for arm in [arm for arm, _ in problem.user_plans if arm not in proposed]:
        log.warning(
            "The plan of %s is not measured, since the trials (%d) or the time end before it. Raise --trials "
            "or --max-time.",
            arm.label,
            n_trials,
        )
    return measured


def _propose(study_log: StudyLog, queue: Sequence[Enqueued]) -> Proposal:
    """The next proposal: from the queue, or drawn."""
    problem, number = study_log.problem, len(study_log.proposals)
    context = problem.context
    if number < len(queue):
        arm, content = queue[number]
        if isinstance(content, Plan):
            return study_log.note(arm, content, source="enqueued")
        arm = _named(arm, content, context) if arm.kind == "usual" else arm
        return study_log.note(arm, plan_of(content, context), source="enqueued")
    # The index among the proposals after the queue decides alone. The random ones are spread evenly; they
    # show what the sampler adds.
    index, share = number - len(queue), problem.space.random_share
    is_random = math.floor((index + 1) * share + 0.5) > math.floor(index * share + 0.5)
    source: ProposalSource = "random" if is_random else "sampler"
    kind = problem.spec.search.sampler if source == "sampler" else "random"
    study_log.study.sampler = make_sampler(kind, seed=problem.seed, number=number, n_startup=_N_STARTUP)
    trial = study_log.study.ask()
    policy = suggest(trial, problem.space, context.methods)
    arm = _named(policy.arm, policy, context)
    return study_log.note(arm, plan_of(policy, context), source=source, trial=trial)


def _named(arm: Arm, policy: Policy, context: AllocationContext) -> Arm:
    """The arm of a policy, by another label where a wider policy takes its place for want of budget."""
    wider = widened(policy, context)
    return arm if wider.arm.label == policy.arm.label else replace(arm, label=wider.arm.label)


def make_sampler(kind: str, *, seed: int, number: int = 0, n_startup: int) -> BaseSampler:
    """A sampler for one trial of a study.

    `seed` is that of the study, `number` that of the trial: a fresh sampler with the same seed would repeat
    its points, so each trial has another seed. Until `n_startup` trials have finished, `tpe` and `gp` propose
    at random. `kind` is a value of `search.sampler`; `auto` is `gp` for the first trials and `tpe` for later
    ones.
    """
    trial_seed = (1000 * seed + number) % (MAX_SEED + 1)
    if kind == "auto":
        kind = "gp" if number < _MANY_TRIALS else "tpe"
    if kind == "random":
        return RandomSampler(seed=trial_seed)
    if kind == "gp":
        return ProcessSampler(seed=trial_seed, n_startup=n_startup)
    assert kind == "tpe", kind
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # of group=True
        return TPESampler(
            multivariate=True, group=True, constant_liar=True, n_startup_trials=n_startup, seed=trial_seed
        )


class ProcessSampler(RandomSampler):
    """Optuna's Gaussian process; random before there are enough trials.

    Bad losses are lowered to a common cap: one run that diverged would otherwise hide the differences between
    the good ones from the process.
    """

    def __init__(self, *, seed: int, n_startup: int) -> None:
        """Nothing is modelled before `n_startup` trials have finished."""
        super().__init__(seed=seed)
        self._seed, self._n_startup = seed, n_startup

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The parameters that all finished trials share."""
        return intersection_search_space(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The proposal of Optuna's process in a study with capped losses."""
        states = (TrialState.COMPLETE, TrialState.RUNNING)
        trials = study.get_trials(deepcopy=False, states=states)
        known = [t for t in trials if search_space.keys() <= t.params.keys()]
        if not search_space or sum(t.state == TrialState.COMPLETE for t in known) < max(1, self._n_startup):
            return {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            process = GPSampler(seed=self._seed, n_startup_trials=0, warn_independent_sampling=False)
        mirror = optuna.create_study(sampler=process, directions=study.directions)
        mirror.add_trials(capped(known))
        return mirror.ask(search_space).params


def capped(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """The trials; a loss above the cap, 2 x the median - the lowest, is lowered to the cap."""
    losses = [trial.value for trial in trials if trial.value is not None]
    if not losses:
        return trials
    middle = statistics.median(losses)
    cap = 2 * middle - min(losses)
    lowered = []
    for trial in trials:
        is_high = trial.value is not None and trial.value > cap
        changed = copy.copy(trial) if is_high else trial
        if is_high:
            changed.value = cap
        lowered.append(changed)
    return lowered
