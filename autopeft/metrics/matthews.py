"""Matthews' correlation coefficient of classes, by scikit-learn."""

from __future__ import annotations

from dataclasses import dataclass

from sklearn.metrics import matthews_corrcoef

from autopeft.metrics._cells import by_cells
from autopeft.metrics._jackknife import Floats, Scored


@dataclass(frozen=True)
class Matthews:
    """In [-1, 1]; 0 is a guess by chance."""

    name: str = "matthews"
    kinds: tuple[str, ...] = ("class",)
    greater_is_better: bool = True
    score_span: float | None = None

    def scored(self, truth: Floats, guesses: Floats) -> Scored:
        """Truth and guesses of shape (N,)."""
        return by_cells(_matthews, truth, guesses)


def _matthews(truth: Floats, guesses: Floats, *, sample_weight: Floats) -> float:
    return float(matthews_corrcoef(truth, guesses, sample_weight=sample_weight))


PART = Matthews()
