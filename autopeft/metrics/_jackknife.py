"""Per-example scores of metrics that are no means of examples: pseudo-values whose mean is the metric.

A jackknife pseudo-value of example i is N θ - (N - 1) θ without i; its variance over N estimates that of θ.
Here all are moved by the same amount, so that their mean is θ itself and not its bias-corrected value.

Source:
    Tukey 1958; Efron & Stein 1981, Annals of Statistics 9:586, on the variance. The moved mean is ours.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Scored = tuple[float, tuple[float, ...]]  # a metric, and scores whose mean it is


def pseudo_values(metric: float, without: npt.ArrayLike) -> tuple[float, ...]:
    """One number per example, whose mean is the metric.

    Args:
        metric: Of all examples.
        without: The metric without example i, shape (N,).

    Example:
        >>> pseudo_values(2.0, [2.5, 2.0, 1.5])  # a mean of 1, 2 and 3
        (1.0, 2.0, 3.0)
    """
    left_out = np.asarray(without, dtype=float)
    moved = metric + (len(left_out) - 1) * (left_out.mean() - left_out)
    return tuple(moved.tolist())


def ratio_scores(numerators: npt.ArrayLike, denominators: npt.ArrayLike) -> tuple[float, ...]:
    """The same for a ratio of two sums, such as a mean over tokens, by its first-order expansion.

    Exact in the mean; example i has θ + N / Σd (n_i - θ d_i).

    Example:
        >>> ratio_scores([1.0, 3.0], [1, 1])
        (1.0, 3.0)
    """
    n, d = np.asarray(numerators, dtype=float), np.asarray(denominators, dtype=float)
    ratio = n.sum() / d.sum()
    return tuple((ratio + len(n) / d.sum() * (n - ratio * d)).tolist())


def jackknifed(function: Callable[[Floats, Floats], float], truth: Floats, guesses: Floats) -> Scored:
    """A metric and its pseudo-values, by leaving out each row in turn; equal rows are left out once.

    Args:
        function: Truth and guesses -> the metric.
        truth: Shape (N,) or (N, C).
        guesses: The same shape.

    Example:
        >>> jackknifed(lambda t, g: float((t == g).mean()), np.array([0.0, 1.0]), np.array([0.0, 0.0]))
        (0.5, (1.0, 0.0))
    """
    pairs = np.concatenate([truth.reshape(len(truth), -1), guesses.reshape(len(truth), -1)], axis=1)
    _, first, kinds = np.unique(pairs, axis=0, return_index=True, return_inverse=True)
    rows = np.arange(len(truth))
    without = np.array([function(truth[rows != i], guesses[rows != i]) for i in first])
    value = float(function(truth, guesses))
    return value, pseudo_values(value, without[kinds.reshape(-1)])
