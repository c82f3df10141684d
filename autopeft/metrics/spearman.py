"""Spearman's rank correlation of numbers."""

from __future__ import annotations

from dataclasses import dataclass

from autopeft.metrics._correlations import spearman
from autopeft.metrics._jackknife import Floats, Scored, jackknifed


@dataclass(frozen=True)
class Spearman:
    """In [-1, 1]; 0 where one side is constant, as it then tells nothing."""

    name: str = "spearman"
    kinds: tuple[str, ...] = ("number",)
    greater_is_better: bool = True
    score_span: float | None = None

    def scored(self, truth: Floats, guesses: Floats) -> Scored:
        """Truth and guesses of shape (N,)."""
        return jackknifed(spearman, truth, guesses)


PART = Spearman()
