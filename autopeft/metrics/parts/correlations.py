"""Correlations of two rows of numbers."""

from __future__ import annotations

import numpy as np
from scipy import stats

from autopeft.metrics.parts.label_metric import Floats


def pearson(truth: Floats, guesses: Floats) -> float:
    """Pearson's correlation in [-1, 1]; 0 where one side is constant."""
    if np.ptp(truth) == 0 or np.ptp(guesses) == 0:
        return 0.0
    return float(np.corrcoef(truth, guesses)[0, 1])


def spearman(truth: Floats, guesses: Floats) -> float:
    """Spearman's correlation in [-1, 1]; 0 where one side is constant."""
    return pearson(stats.rankdata(truth), stats.rankdata(guesses))
