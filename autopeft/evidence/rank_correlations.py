"""Rank correlation: how far two lists agree in their order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats


def rank_correlation(a: Sequence[float | None], b: Sequence[float | None]) -> float | None:
    """Spearman's rho of two lists of equal length, in [-1, 1]; ties share their mean rank.

    Pairs where either side is None or not finite (a diverged run) are left out. None is returned where fewer
    than 3 pairs remain, or one side is constant and so has no order to compare. Below 10 pairs it is a hint.

    Example:
        >>> rank_correlation([0.1, 0.2, 0.3, float("nan")], [1.0, 2.0, 3.0, 0.0])
        1.0
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    assert first.shape == second.shape and first.ndim == 1, f"{first.shape} against {second.shape}"
    is_finite = np.isfinite(first) & np.isfinite(second)
    first, second = first[is_finite], second[is_finite]
    if first.size < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    # Rounding can leave the coefficient a hair outside its range.
    return float(np.clip(stats.spearmanr(first, second).statistic, -1.0, 1.0))
