"""F1 of several labels per example, with its pseudo-values."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.metrics import f1_score

from autopeft.metrics.parts.label_metric import Floats, Scored
from autopeft.metrics.parts.pseudo_values import pseudo_values


def score_f1_of_labels(truth: Floats, guesses: Floats, *, average: str) -> Scored:
    """Truth and guesses (N, C), 0 or 1; `average` is macro or micro; a label that never occurs has F1 0."""
    value = float(f1_score(truth, guesses, average=average, zero_division=0.0))
    hits, both = truth * guesses, truth + guesses
    if average == "micro":
        hits, both = hits.sum(axis=1, keepdims=True), both.sum(axis=1, keepdims=True)
    without = f1_of_counts(hits.sum(axis=0) - hits, both.sum(axis=0) - both)
    return value, pseudo_values(value, without.mean(axis=1))


def f1_of_counts(hits: Any, both: Any) -> Floats:
    """F1 from the number of hits and of true and guessed labels together; 0 where there are no labels."""
    f1: Floats = np.divide(2 * hits, both, out=np.zeros(np.shape(both)), where=both > 0)
    return f1
