"""Macro-F1: the mean over labels of each one's F1, by scikit-learn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.metrics import f1_score

from autopeft.metrics._jackknife import Floats, Scored, pseudo_values
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
        return _of_classes(truth, guesses) if truth.ndim == 1 else f1_without_each(truth, guesses)


def _of_classes(truth: Floats, guesses: Floats) -> Scored:
    """Without an example only the F1 of its own class and of the one it was taken for are others."""
    value = float(f1_score(truth, guesses, average="macro", zero_division=0.0))
    names, codes = np.unique(np.concatenate([truth, guesses]), return_inverse=True)
    own, taken = codes.reshape(2, -1)
    is_hit = (own == taken).astype(int)
    hits = np.bincount(own, weights=is_hit, minlength=len(names))
    both = np.bincount(codes.reshape(-1), minlength=len(names))
    f1 = _f1(hits, both)
    change = _f1(hits[own] - is_hit, both[own] - 1 - is_hit) - f1[own]
    change += (1 - is_hit) * (_f1(hits[taken], both[taken] - 1) - f1[taken])
    return value, pseudo_values(value, (f1.sum() + change) / len(names))


def _f1(hits: Any, both: Any) -> Any:
    """F1 by what is right, and true and guessed together; 0 where there is neither."""
    return np.divide(2 * hits, both, out=np.zeros(len(hits)), where=both > 0)


PART = MacroF1()
