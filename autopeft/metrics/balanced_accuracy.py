"""Balanced accuracy: the mean over classes of the share of the class that is guessed right.

Every class weighs the same, however rare it is.
"""

from __future__ import annotations

import warnings
from functools import partial

from sklearn.metrics import balanced_accuracy_score

from autopeft.metrics.parts.label_metric import Floats, LabelMetric, score_by_cells


def _balanced_accuracy(truth: Floats, guesses: Floats, *, sample_weight: Floats) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns of a class whose only example is left out
        return float(balanced_accuracy_score(truth, guesses, sample_weight=sample_weight))


PART = LabelMetric(
    name="balanced-accuracy",
    kinds=("class",),
    score=partial(score_by_cells, _balanced_accuracy),
    is_share=True,
)
