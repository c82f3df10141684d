"""Optuna's samplers as a search uses them: one for each trial, with a seed of its own."""

from __future__ import annotations

import warnings

import optuna
from optuna.samplers import BaseSampler, GPSampler, QMCSampler, RandomSampler, TPESampler


def make_sampler(kind: str, *, seed: int, n_startup: int) -> BaseSampler:
    """The sampler of that name: tpe, random, qmc or gp."""
    if kind == "random":
        return RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if kind == "qmc":
            return QMCSampler(seed=seed)
        if kind == "gp":
            return GPSampler(seed=seed, n_startup_trials=n_startup)
        return TPESampler(
            multivariate=True, group=True, constant_liar=True, n_startup_trials=n_startup, seed=seed
        )
