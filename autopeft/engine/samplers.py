"""The samplers of a study: TPE, random, quasi-random, Gaussian process."""

from __future__ import annotations

import math
import warnings
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.search_space import intersection_search_space
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from scipy.stats import qmc

from autopeft.errors import SpecError, UnknownNameError
from autopeft.records import MAX_SEED
from autopeft.space import Space

KINDS = ("tpe", "random", "qmc", "gp")
_N_DIMENSIONS = 128  # parameters of one proposal; twelve parts of the depth in each of five parts make 60


def make_sampler(kind: str, *, seed: int, number: int = 0, n_startup: int) -> BaseSampler:
    """A sampler for one trial of a study; `gp` needs a space that `check_sampler` lets pass.

    `seed` is that of the study, `number` that of the trial: a fresh sampler with the same seed would repeat
    its points, so each trial has another seed; `qmc` keeps the seed and goes on in its sequence. Until
    `n_startup` trials have finished, `tpe` and `gp` propose at random.
    """
    trial_seed = (1000 * seed + number) % (MAX_SEED + 1)
    if kind == "random":
        return RandomSampler(seed=trial_seed)
    if kind == "qmc":
        return QuasiRandomSampler(seed=seed)
    if kind == "gp":
        return ProcessSampler(seed=trial_seed, n_startup=n_startup)
    if kind != "tpe":
        raise UnknownNameError("sampler", kind, KINDS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # of group=True
        return TPESampler(
            multivariate=True, group=True, constant_liar=True, n_startup_trials=n_startup, seed=trial_seed
        )


def check_sampler(kind: str, space: Space) -> None:
    """Refuse `gp` where a parameter depends on another one.

    A Gaussian process models the parameters that all trials share; the others would be random.

    Raises:
        SpecError: The space has several arms, or an arm has `any` beside other ways to choose layers.
    """
    if kind != "gp":
        return
    if len(space.arms) > 1:
        raise SpecError(
            f"The sampler gp takes one method or one mix, and the search space has {len(space.arms)} "
            f"({', '.join(space.arms[:4])}{', …' if len(space.arms) > 4 else ''}), whose parameters it would "
            "draw at random; use --sampler tpe, or narrow the space by --methods or --space lora_only."
        )
    for method, part in space.parts(space.arms[0]):
        if "any" in part.layers_by and len(part.layers_by) > 1:
            raise SpecError(
                f"The sampler gp takes no choice that depends on another, and {method} has layers_by any "
                "beside other ways; use --sampler tpe, or leave one of them in the space."
            )


class QuasiRandomSampler(RandomSampler):
    """Points of a scrambled Sobol sequence, for spaces with choices and with conditions.

    Optuna's `QMCSampler` covers only the numbers of its first trial and draws the rest at random. Here the
    k-th parameter of a proposal is the k-th coordinate of the point with the trial's number, so that the
    parameters of every arm are spread evenly.
    """

    def __init__(self, *, seed: int) -> None:
        """The seed scrambles the sequence; it must be the same for a whole study."""
        super().__init__(seed=seed)
        self._seed = seed
        self._points: dict[int, list[float]] = {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The coordinate at the place of the parameter in its proposal."""
        if trial.number not in self._points:
            sequence = qmc.Sobol(d=_N_DIMENSIONS, scramble=True, rng=self._seed)
            if trial.number:
                sequence.fast_forward(trial.number)
            self._points[trial.number] = sequence.random(1)[0].tolist()
        return _at(self._points[trial.number][len(trial.params)], param_distribution)


def _at(share: float, distribution: BaseDistribution) -> Any:
    """The value at a share in [0, 1) of a distribution."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[int(share * len(distribution.choices))]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high = distribution.low, distribution.high
    if isinstance(distribution, IntDistribution) or distribution.step is not None:
        assert not distribution.log, "whole numbers in the logarithm are in no space"
        step = distribution.step or 1
        value = low + step * int(share * (1 + round((high - low) / step)))
    elif distribution.log:
        value = low * math.exp(share * math.log(high / low))
    else:
        value = low + share * (high - low)
    return min(max(value, low), high)


class ProcessSampler(RandomSampler):
    """Optuna's Gaussian process over the trials that have parameters; random before there are enough.

    A trial without parameters (the head alone, or a baseline that the space lacks) would leave no parameter
    that all trials share, and Optuna would silently sample at random.
    """

    def __init__(self, *, seed: int, n_startup: int) -> None:
        """Nothing is modelled before `n_startup` trials with parameters have finished."""
        super().__init__(seed=seed)
        self._seed, self._n_startup = seed, n_startup

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The parameters that all finished trials with parameters share."""
        return intersection_search_space(
            [t for t in _with_parameters(study) if t.state == TrialState.COMPLETE]
        )

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The proposal of Optuna's process in a study that holds only trials with parameters."""
        known = [t for t in _with_parameters(study) if search_space.keys() <= t.params.keys()]
        if not search_space or sum(t.state == TrialState.COMPLETE for t in known) < max(1, self._n_startup):
            return {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            process = GPSampler(seed=self._seed, n_startup_trials=0, warn_independent_sampling=False)
        mirror = optuna.create_study(sampler=process, directions=study.directions)
        mirror.add_trials(known)
        return mirror.ask(search_space).params


def _with_parameters(study: Study) -> list[FrozenTrial]:
    """Trials that are finished or under way, and have parameters."""
    states = (TrialState.COMPLETE, TrialState.RUNNING)
    return [trial for trial in study.get_trials(deepcopy=False, states=states) if trial.params]
