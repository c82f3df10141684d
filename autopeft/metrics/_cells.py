"""Metrics of the confusion matrix, whose jackknife is cheap: the examples of a cell share a score."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from autopeft.metrics._jackknife import Floats, Scored, pseudo_values


def by_cells(function: Callable[..., float], truth: Floats, guesses: Floats) -> Scored:
    """A metric that takes `sample_weight`, and its pseudo-values; each cell is left out once.

    Args:
        function: Truth, guesses and their weights -> the metric.
        truth: Shape (N,).
        guesses: Shape (N,).
    """
    cells, at, counts = np.unique(np.stack([truth, guesses]), axis=1, return_inverse=True, return_counts=True)
    whole = float(function(cells[0], cells[1], sample_weight=counts))
    less = [counts - (np.arange(len(counts)) == cell) for cell in range(len(counts))]
    without = [function(cells[0], cells[1], sample_weight=weights) for weights in less]
    return whole, pseudo_values(whole, np.array(without)[at.reshape(-1)])
