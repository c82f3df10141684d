"""Macro-F1: the mean of the labels' F1, by scikit-learn; every label weighs the same, however rare."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import f1_score

from autopeft.metrics.parts.label_metric import (
    Floats,
    LabelMetric,
    Scored,
    class_codes,
    f1_of_counts,
    pseudo_values,
    score_f1_of_labels,
)


def _score(truth: Floats, guesses: Floats) -> Scored:
    """Truth and guesses: classes of shape (N,), over those that occur in either, or (N, C) of 0 and 1."""
    if truth.ndim == 2:
        return score_f1_of_labels(truth, guesses, average="macro")
    # Leaving out an example changes the F1 of two classes alone: of its true and of its guessed class.
    # One call of scikit-learn per example took 4.8 s for 2,000 examples.
    value = float(f1_score(truth, guesses, average="macro", zero_division=0.0))
    true, guessed, n_classes = class_codes(truth, guesses)
    is_hit = (true == guessed).astype(int)
    hits = np.bincount(true, weights=is_hit, minlength=n_classes)
    both = np.bincount(np.concatenate([true, guessed]), minlength=n_classes)
    f1 = f1_of_counts(hits, both)
    change = f1_of_counts(hits[true] - is_hit, both[true] - 1 - is_hit) - f1[true]
    change += (1 - is_hit) * (f1_of_counts(hits[guessed], both[guessed] - 1) - f1[guessed])
    return value, pseudo_values(value, (f1.sum() + change) / n_classes)


PART = LabelMetric(
    name="macro-f1",
    label="macro-F1",
    kinds=("class", "classes"),
    score=_score,
    default_for=("uneven",),
    is_share=True,
)
