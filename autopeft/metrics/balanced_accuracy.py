"""Balanced accuracy: the mean over classes of the share that is found, by scikit-learn."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

from sklearn.metrics import balanced_accuracy_score

from autopeft.metrics._cells import by_cells
from autopeft.metrics._jackknife import Floats, Scored


@dataclass(frozen=True)
class BalancedAccuracy:
    """Every class weighs the same, however rare it is."""

    name: str = "balanced-accuracy"
    kinds: tuple[str, ...] = ("class",)
    greater_is_better: bool = True
    score_span: float | None = None

    def scored(self, truth: Floats, guesses: Floats) -> Scored:
        """Truth and guesses of shape (N,)."""
        return by_cells(_balanced, truth, guesses)


def _balanced(truth: Floats, guesses: Floats, *, sample_weight: Floats) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a class whose only example is left out
        return float(balanced_accuracy_score(truth, guesses, sample_weight=sample_weight))


PART = BalancedAccuracy()
