"""The samplers of a study: Gaussian process, TPE, random."""

from __future__ import annotations

import copy
import statistics
import warnings
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.search_space import intersection_search_space
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from autopeft.records import MAX_SEED

# Trials from which `auto` takes TPE: a process with 100 trials and five parameters takes seconds a proposal.
# Chosen by hand.
_MANY_TRIALS = 60


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
