"""Per-example scores of metrics that are no means of examples: pseudo-values whose mean is the metric.

A jackknife pseudo-value of example i is N θ - (N - 1) θ without i; their variance over N estimates that of θ.
Here all are shifted by the same amount, so that their mean is θ itself and not its bias-corrected value.

Source:
    Tukey 1958; Efron & Stein 1981, Annals of Statistics 9:586, on the variance. The shift is ours.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from autopeft.metrics.parts.label_metric import Floats, Scored


def pseudo_values(metric: float, without: npt.ArrayLike) -> tuple[float, ...]:
    """One number per example; their mean is the metric.

    Args:
        metric: Of all examples.
        without: The metric without example i, shape (N,).

    Example:
        >>> pseudo_values(2.0, [2.5, 2.0, 1.5])  # a mean of 1, 2 and 3
        (1.0, 2.0, 3.0)
    """
    left_out = np.asarray(without, dtype=float)
    shifted = metric + (len(left_out) - 1) * (left_out.mean() - left_out)
    return tuple(shifted.tolist())


def ratio_scores(numerators: npt.ArrayLike, denominators: npt.ArrayLike) -> tuple[float, ...]:
    """Scores of a ratio θ of two sums, such as a mean over tokens, by its first-order expansion.

    Example i scores θ + N / Σd (n_i - θ d_i); the mean of the scores is exactly θ.

    Example:
        >>> ratio_scores([1.0, 3.0], [1, 1])
        (1.0, 3.0)
    """
    n, d = np.asarray(numerators, dtype=float), np.asarray(denominators, dtype=float)
    ratio = n.sum() / d.sum()
    return tuple((ratio + len(n) / d.sum() * (n - ratio * d)).tolist())


def jackknife(function: Callable[[Floats, Floats], float], truth: Floats, guesses: Floats) -> Scored:
    """A metric and its pseudo-values, by leaving out each example in turn; equal examples are left out once.

    Args:
        function: Truth and guesses -> the metric.
        truth: Shape (N,) or (N, C).
        guesses: The same shape.

    Example:
        >>> jackknife(lambda t, g: float((t == g).mean()), np.array([0.0, 1.0]), np.array([0.0, 0.0]))
        (0.5, (1.0, 0.0))
    """
    pairs = np.concatenate([truth.reshape(len(truth), -1), guesses.reshape(len(truth), -1)], axis=1)
    _, first, group = np.unique(pairs, axis=0, return_index=True, return_inverse=True)
    rows = np.arange(len(truth))
    without = np.array([function(truth[rows != i], guesses[rows != i]) for i in first])
    value = float(function(truth, guesses))
    return value, pseudo_values(value, without[group.reshape(-1)])
