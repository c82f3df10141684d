"""Macro-F1: the mean over labels of each one's F1, by scikit-learn."""

from __future__ import annotations

from dataclasses import dataclass

from sklearn.metrics import f1_score

from autopeft.metrics._cells import by_cells
from autopeft.metrics._jackknife import Floats, Scored
from autopeft.metrics._several import f1_without_each


@dataclass(frozen=True)
class MacroF1:
    """Every label weighs the same, however rare it is."""

    name: str = "macro-f1"
    kinds: tuple[str, ...] = ("class", "classes")
    greater_is_better: bool = True
    score_span: float | None = None

    def scored(self, truth: Floats, guesses: Floats) -> Scored:
        """Truth and guesses: classes of shape (N,), over those that occur in either, or (N, C) of 0 and 1."""
        return by_cells(_f1, truth, guesses) if truth.ndim == 1 else f1_without_each(truth, guesses)


def _f1(truth: Floats, guesses: Floats, *, sample_weight: Floats) -> float:
    """A label that is never right has 0."""
    options = {"average": "macro", "zero_division": 0.0}
    return float(f1_score(truth, guesses, sample_weight=sample_weight, **options))


PART = MacroF1()
