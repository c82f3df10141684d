"""Pearson's correlation of numbers."""

from __future__ import annotations

from dataclasses import dataclass

from autopeft.metrics._correlations import pearson
from autopeft.metrics._jackknife import Floats, Scored, jackknifed


@dataclass(frozen=True)
class Pearson:
    """In [-1, 1]; 0 where one side is constant, as it then tells nothing."""

    name: str = "pearson"
    kinds: tuple[str, ...] = ("number",)
    greater_is_better: bool = True
    score_span: float | None = None

    def scored(self, truth: Floats, guesses: Floats) -> Scored:
        """Truth and guesses of shape (N,)."""
        return jackknifed(pearson, truth, guesses)


PART = Pearson()
