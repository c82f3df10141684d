"""Scores of metrics of the confusion matrix: the examples of one cell share a pseudo-value."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from autopeft.metrics.parts.label_metric import Floats, Scored
from autopeft.metrics.parts.pseudo_values import pseudo_values


def score_by_cells(function: Callable[..., float], truth: Floats, guesses: Floats) -> Scored:
    """A metric and its pseudo-values; one example of each cell is left out, instead of every example.

    Args:
        function: Truth, guesses and `sample_weight` -> the metric.
        truth: Shape (N,).
        guesses: Shape (N,).
    """
    cells, cell_of, counts = np.unique(
        np.stack([truth, guesses]), axis=1, return_inverse=True, return_counts=True
    )
    value = float(function(cells[0], cells[1], sample_weight=counts))
    one_less = counts - np.eye(len(counts), dtype=counts.dtype)
    without = np.array([function(cells[0], cells[1], sample_weight=weights) for weights in one_less])
    return value, pseudo_values(value, without[cell_of.reshape(-1)])
