"""Balanced accuracy: the mean over classes of the share of the class that is guessed right.

Every class weighs the same, however rare it is; a class that is only guessed has no share.
"""

from __future__ import annotations

import numpy as np

from autopeft.metrics.parts.label_metric import Floats, LabelMetric, Scored, class_codes, pseudo_values


def _score(truth: Floats, guesses: Floats) -> Scored:
    """Truth and guesses: classes (N,); leaving out an example changes the share of its class alone."""
    true, guessed, n_classes = class_codes(truth, guesses)
    is_hit = (true == guessed).astype(float)
    counts = np.bincount(true, minlength=n_classes)
    hits = np.bincount(true, weights=is_hit, minlength=n_classes)
    shares = hits / np.maximum(counts, 1)
    n_known = np.count_nonzero(counts)
    value = float(shares.sum() / n_known)
    if len(truth) == 1:
        return value, (value,)
    others = counts[true] - 1  # of the class of each example
    left = np.divide(hits[true] - is_hit, others, out=np.zeros(len(true)), where=others > 0)
    without = (shares.sum() - shares[true] + left) / (n_known - (others == 0))
    return value, pseudo_values(value, without)


PART = LabelMetric(
    name="balanced-accuracy",
    label="balanced accuracy",
    kinds=("class",),
    score=_score,
    is_share=True,
)
