"""Metrics of classes and numbers, by scikit-learn and scipy, with one score per example."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping

import numpy as np
from scipy import stats
from sklearn import metrics

from autopeft.tasks._scores import Floats, pseudo_values, without_each

Scored = tuple[float, tuple[float, ...]]


def _accuracy(truth: Floats, guesses: Floats) -> Scored:
    hits = (truth == guesses).astype(float)
    return float(hits.mean()), tuple(hits.tolist())


def _by_cells(function: Callable[..., float]) -> Callable[[Floats, Floats], Scored]:
    """A metric of the confusion matrix: the examples of a cell share a score; each cell is left out once."""

    def scored(truth: Floats, guesses: Floats) -> Scored:
        cells, at, counts = np.unique(
            np.stack([truth, guesses]), axis=1, return_inverse=True, return_counts=True
        )
        at = at.reshape(-1)
        whole = float(function(cells[0], cells[1], sample_weight=counts))
        less = [counts - (np.arange(len(counts)) == cell) for cell in range(len(counts))]
        without = [function(cells[0], cells[1], sample_weight=weights) for weights in less]
        return whole, pseudo_values(whole, np.array(without)[at])

    return scored


def _macro_f1(truth: Floats, guesses: Floats, *, sample_weight: Floats) -> float:
    """Over the labels that occur in truth or guesses; one that is never right has 0."""
    return float(
        metrics.f1_score(truth, guesses, sample_weight=sample_weight, average="macro", zero_division=0.0)
    )


def _balanced(truth: Floats, guesses: Floats, *, sample_weight: Floats) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a class whose only example is left out
        return float(metrics.balanced_accuracy_score(truth, guesses, sample_weight=sample_weight))


def _matthews(truth: Floats, guesses: Floats, *, sample_weight: Floats) -> float:
    return float(metrics.matthews_corrcoef(truth, guesses, sample_weight=sample_weight))


# Of one class per example: truth and guesses of shape (N,), indices of labels.
CLASS_METRICS: Mapping[str, Callable[[Floats, Floats], Scored]] = {
    "accuracy": _accuracy,
    "macro-f1": _by_cells(_macro_f1),
    "balanced-accuracy": _by_cells(_balanced),
    "matthews": _by_cells(_matthews),
}


def _micro_f1(truth: Floats, guesses: Floats) -> Scored:
    value = float(metrics.f1_score(truth, guesses, average="micro", zero_division=0.0))
    hits = (truth * guesses).sum(axis=1)
    both = truth.sum(axis=1) + guesses.sum(axis=1)
    rest = both.sum() - both
    without = np.divide(2 * (hits.sum() - hits), rest, out=np.zeros_like(rest), where=rest > 0)
    return value, pseudo_values(value, without)


def _multi_macro_f1(truth: Floats, guesses: Floats) -> Scored:
    value = float(metrics.f1_score(truth, guesses, average="macro", zero_division=0.0))
    hits, both = truth * guesses, truth + guesses
    rest = both.sum(axis=0) - both
    f1 = np.divide(2 * (hits.sum(axis=0) - hits), rest, out=np.zeros_like(rest), where=rest > 0)
    return value, pseudo_values(value, f1.mean(axis=1))


def _exact_match(truth: Floats, guesses: Floats) -> Scored:
    hits = (truth == guesses).all(axis=1).astype(float)
    return float(hits.mean()), tuple(hits.tolist())


# Of several classes per example: truth and guesses of shape (N, C), 0 or 1.
CLASSES_METRICS: Mapping[str, Callable[[Floats, Floats], Scored]] = {
    "micro-f1": _micro_f1,
    "macro-f1": _multi_macro_f1,
    "exact-match": _exact_match,
}


def pearson(truth: Floats, guesses: Floats) -> float:
    """Pearson's correlation in [-1, 1]; 0 where one side is constant, as it then tells nothing."""
    if np.ptp(truth) == 0 or np.ptp(guesses) == 0:
        return 0.0
    return float(np.corrcoef(truth, guesses)[0, 1])


def spearman(truth: Floats, guesses: Floats) -> float:
    """Spearman's correlation in [-1, 1]; 0 where one side is constant."""
    return pearson(stats.rankdata(truth), stats.rankdata(guesses))


def _correlation(function: Callable[[Floats, Floats], float]) -> Callable[[Floats, Floats], Scored]:
    def scored(truth: Floats, guesses: Floats) -> Scored:
        value = function(truth, guesses)
        return value, pseudo_values(value, without_each(function, truth, guesses))

    return scored


def _mean_of(errors: Callable[[Floats], Floats]) -> Callable[[Floats, Floats], Scored]:
    def scored(truth: Floats, guesses: Floats) -> Scored:
        values = errors(guesses - truth)
        return float(values.mean()), tuple(values.tolist())

    return scored


# Of numbers: truth and guesses of shape (N,).
NUMBER_METRICS: Mapping[str, Callable[[Floats, Floats], Scored]] = {
    "pearson": _correlation(pearson),
    "spearman": _correlation(spearman),
    "pearson-spearman": _correlation(lambda t, g: (pearson(t, g) + spearman(t, g)) / 2),
    "mean-squared-error": _mean_of(np.square),
    "mean-absolute-error": _mean_of(np.abs),
}
ERRORS = ("mean-squared-error", "mean-absolute-error")
