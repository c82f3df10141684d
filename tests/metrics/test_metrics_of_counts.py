"""Metrics of the counts of classes, with every example left out in turn: against scikit-learn, and quick."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn import metrics

from autopeft.plugins import discover

METRICS = discover("autopeft.metrics")
BY_SCIKIT_LEARN = {
    "balanced-accuracy": metrics.balanced_accuracy_score,
    "matthews": metrics.matthews_corrcoef,
    # A guessed class without rows adds no 0.
    "macro-f1": lambda t, g: metrics.f1_score(t, g, average="macro", labels=np.unique(t), zero_division=0),
}
by_metric = pytest.mark.parametrize("name", BY_SCIKIT_LEARN)


def rows(case, rng):
    """Truth and guesses: many rare classes, classes that are only guessed, or one class alone."""
    if case == "rare":
        truth = rng.integers(0, 12, 40)
        return truth, np.where(rng.random(40) < 0.6, truth, rng.integers(0, 12, 40))
    if case == "only guessed":
        truth = rng.integers(0, 3, 30)
        return truth, np.where(rng.random(30) < 0.6, truth, rng.integers(3, 6, 30))
    if case == "one guess":
        return rng.integers(0, 3, 20), np.ones(20)
    return np.ones(20), np.ones(20)


@by_metric
@pytest.mark.parametrize("case", ["rare", "only guessed", "one guess", "one class"])
def test_scores_are_those_of_scikit_learn_without_each_example(name, case):
    truth, guesses = (column.astype(float) for column in rows(case, np.random.default_rng(3)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        value, scores = METRICS[name].score(truth, guesses)
    kept = np.arange(len(truth))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns of a class that is only guessed, or alone
        expected = BY_SCIKIT_LEARN[name](truth, guesses)
        without = np.array([BY_SCIKIT_LEARN[name](truth[kept != i], guesses[kept != i]) for i in kept])
    assert value == pytest.approx(expected, abs=1e-12)
    assert scores == pytest.approx(expected + (len(truth) - 1) * (without.mean() - without), abs=1e-9)
