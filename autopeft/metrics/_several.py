"""F1 of several labels per example, and what it is without each example, by its counts."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import f1_score

from autopeft.metrics._jackknife import Floats, Scored, pseudo_values


def f1_without_each(truth: Floats, guesses: Floats, *, average: str = "macro") -> Scored:
    """Truth and guesses of shape (N, C), 0 or 1; `average` is macro or micro; a label without any has 0."""
    value = float(f1_score(truth, guesses, average=average, zero_division=0.0))
    hits, both = truth * guesses, truth + guesses
    if average == "micro":
        hits, both = hits.sum(axis=1, keepdims=True), both.sum(axis=1, keepdims=True)
    rest = both.sum(axis=0) - both
    f1 = np.divide(2 * (hits.sum(axis=0) - hits), rest, out=np.zeros_like(rest), where=rest > 0)
    return value, pseudo_values(value, f1.mean(axis=1))
