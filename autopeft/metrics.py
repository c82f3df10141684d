"""Metrics of labels: one table, each with one score per example whose mean is the metric.

For a metric θ that is not a mean over examples, the scores are pseudo-values, which `jackknife` computes:
that of example i is N θ - (N - 1) θ without i, and their variance over N estimates that of θ (Tukey 1958;
Efron & Stein 1981, Annals of Statistics 9:586). We shift all by the same amount, so that their mean is θ
itself and not its bias-corrected value. scikit-learn has most of these metrics, but takes 15 seconds to leave
out each of 2,000 examples of 77 classes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from autopeft.plugins import Metric

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.intp]
Scored = tuple[float, tuple[float, ...]]  # a metric, and one score per example with the metric as their mean


def mean_of(scores: npt.NDArray[np.generic]) -> Scored:
    """Return the mean of scores (N,), numbers or booleans, and the scores."""
    scores = scores.astype(float)
    return float(scores.mean()), tuple(scores.tolist())


def pseudo_values(metric: float, without: npt.ArrayLike) -> tuple[float, ...]:
    """Compute one number per example from the metric without that example (N,); their mean is the metric.

    Example:
        >>> pseudo_values(2.0, [2.5, 2.0, 1.5])  # a mean of 1, 2 and 3
        (1.0, 2.0, 3.0)
    """
    left_out = np.asarray(without, dtype=float)
    shifted = metric + (len(left_out) - 1) * (left_out.mean() - left_out)
    return tuple(shifted.tolist())


def ratio_scores(numerators: npt.ArrayLike, denominators: npt.ArrayLike) -> tuple[float, ...]:
    """Score the examples of a ratio θ of two sums, such as a mean over tokens, by its first-order expansion.

    Example i scores θ + N / Σd (n_i - θ d_i); the mean of the scores is exactly θ.
    """
    n, d = np.asarray(numerators, dtype=float), np.asarray(denominators, dtype=float)
    ratio = n.sum() / d.sum()
    return tuple((ratio + len(n) / d.sum() * (n - ratio * d)).tolist())


def jackknife(function: Callable[[Floats, Floats], float], truth: Floats, guesses: Floats) -> Scored:
    """Compute a metric and its pseudo-values by leaving out each example in turn.

    Equal examples are left out once. A single example scores the metric itself. `function` computes it from
    truth and guesses, both of shape (N,) or (N, C).
    """
    value = float(function(truth, guesses))
    if len(truth) == 1:
        return value, (value,)
    pairs = np.concatenate([truth.reshape(len(truth), -1), guesses.reshape(len(truth), -1)], axis=1)
    _, distinct, group = np.unique(pairs, axis=0, return_index=True, return_inverse=True)
    rows = np.arange(len(truth))
    without = np.array([function(truth[rows != i], guesses[rows != i]) for i in distinct])
    return value, pseudo_values(value, without[group.reshape(-1)])


def class_codes(truth: Floats, guesses: Floats) -> tuple[Codes, Codes, int]:
    """Number the classes that occur in truth or guesses (N,); return both, and how many there are."""
    names, codes = np.unique(np.concatenate([truth, guesses]), return_inverse=True)
    true, guessed = codes.reshape(2, -1)
    return true, guessed, len(names)


def score_f1_of_labels(truth: Floats, guesses: Floats, *, average: str) -> Scored:
    """Compute F1 of labels (N, C), 0 or 1, averaged by macro or micro; a label that never occurs has F1 0."""
    hits, both = truth * guesses, truth + guesses
    if average == "micro":
        hits, both = hits.sum(axis=1, keepdims=True), both.sum(axis=1, keepdims=True)
    without = f1_of_counts(hits.sum(axis=0) - hits, both.sum(axis=0) - both)
    value = float(f1_of_counts(hits.sum(axis=0), both.sum(axis=0)).mean())
    return value, pseudo_values(value, without.mean(axis=1))


def f1_of_counts(hits: Any, both: Any) -> Floats:
    """Compute F1 from the numbers of hits and of true plus guessed labels; 0 if there are no labels."""
    f1: Floats = np.divide(2 * hits, both, out=np.zeros(np.shape(both)), where=both > 0)
    return f1


def balanced_accuracy(truth: Floats, guesses: Floats) -> float:
    """Average the recall of the classes that have rows; truth and guesses are (N,)."""
    _, true = np.unique(truth, return_inverse=True)
    return float((np.bincount(true, weights=truth == guesses) / np.bincount(true)).mean())


def macro_f1(truth: Floats, guesses: Floats) -> float:
    """Average the F1 of the classes (N,) that have rows.

    A guessed class without rows counts as a wrong guess, and adds no F1 of 0 to the mean: one such guess
    among hundreds would cost a fifth of the score.
    """
    true, guessed, n_classes = class_codes(truth, guesses)
    counts = np.bincount(true, minlength=n_classes)
    hits = np.bincount(true[true == guessed], minlength=n_classes)
    f1 = f1_of_counts(hits, counts + np.bincount(guessed, minlength=n_classes))
    return float(f1[counts > 0].mean())


def _macro_f1(truth: Floats, guesses: Floats) -> Scored:
    if truth.ndim == 2:
        return score_f1_of_labels(truth, guesses, average="macro")
    return jackknife(macro_f1, truth, guesses)


def matthews(truth: Floats, guesses: Floats) -> float:
    """Compute Matthews' correlation of classes (N,), in [-1, 1]; 0 by chance, or if all are of one class.

    Source: Gorodkin 2004, Computational Biology and Chemistry 28:367, for several classes.
    """
    true, guessed, n_classes = class_codes(truth, guesses)
    of_true, of_guessed = (np.bincount(codes, minlength=n_classes) / len(true) for codes in (true, guessed))
    covariance = (true == guessed).mean() - of_true @ of_guessed
    spread = (1 - of_true @ of_true) * (1 - of_guessed @ of_guessed)
    return float(covariance / np.sqrt(spread)) if spread else 0.0


def pearson(truth: Floats, guesses: Floats) -> float:
    """Compute Pearson's correlation, in [-1, 1]; 0 if one side is constant."""
    if np.ptp(truth) == 0 or np.ptp(guesses) == 0:
        return 0.0
    return float(np.corrcoef(truth, guesses)[0, 1])


def spearman(truth: Floats, guesses: Floats) -> float:
    """Compute Spearman's correlation, in [-1, 1]; 0 if one side is constant."""
    return pearson(_ranks(truth), _ranks(guesses))


def _ranks(values: Floats) -> Floats:
    """Rank numbers from 1; equal ones have their mean rank. To import scipy.stats takes a second."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[places]


_MEAN_SHARE: dict[str, Any] = {"is_share": True, "score_span": 1.0}
_ERROR: dict[str, Any] = {"kinds": ("number",), "greater_is_better": False}
_CORRELATION: dict[str, Any] = {"kinds": ("number",), "chance": 0.0}
PLUGINS = (
    Metric(
        name="accuracy",
        kinds=("class",),
        score=lambda truth, guesses: mean_of(truth == guesses),
        default_for=("class",),
        **_MEAN_SHARE,
    ),
    Metric(
        name="exact-match",
        label="exact match",
        kinds=("classes",),
        score=lambda truth, guesses: mean_of((truth == guesses).all(axis=1)),
        **_MEAN_SHARE,
    ),
    Metric(
        name="balanced-accuracy",
        label="balanced accuracy",
        kinds=("class",),
        score=partial(jackknife, balanced_accuracy),
        is_share=True,
    ),
    Metric(
        name="macro-f1",
        label="macro-F1",
        kinds=("class", "classes"),
        score=_macro_f1,
        default_for=("uneven",),
        is_share=True,
    ),
    Metric(
        name="micro-f1",
        label="micro-F1",
        kinds=("classes",),
        score=partial(score_f1_of_labels, average="micro"),
        default_for=("classes",),
        is_share=True,
    ),
    Metric(
        name="matthews",
        label="Matthews correlation",
        kinds=("class",),
        score=partial(jackknife, matthews),
        chance=0.0,
    ),
    Metric(
        name="mean-absolute-error",
        label="mean absolute error",
        score=lambda truth, guesses: mean_of(np.abs(guesses - truth)),
        **_ERROR,
    ),
    Metric(
        name="mean-squared-error",
        label="mean squared error",
        score=lambda truth, guesses: mean_of(np.square(guesses - truth)),
        **_ERROR,
    ),
    Metric(
        name="pearson",
        label="Pearson's r",
        score=partial(jackknife, pearson),
        default_for=("number",),
        **_CORRELATION,
    ),
    Metric(name="spearman", label="Spearman's ρ", score=partial(jackknife, spearman), **_CORRELATION),
)
