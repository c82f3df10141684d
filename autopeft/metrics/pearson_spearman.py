"""The mean of Pearson's and Spearman's correlation, as GLUE's STS-B is judged."""

from __future__ import annotations

from dataclasses import dataclass

from autopeft.metrics._correlations import pearson, spearman
from autopeft.metrics._jackknife import Floats, Scored, jackknifed


@dataclass(frozen=True)
class PearsonSpearman:
    """In [-1, 1]."""

    name: str = "pearson-spearman"
    kinds: tuple[str, ...] = ("number",)
    greater_is_better: bool = True
    score_span: float | None = None

    def scored(self, truth: Floats, guesses: Floats) -> Scored:
        """Truth and guesses of shape (N,)."""
        return jackknifed(lambda t, g: (pearson(t, g) + spearman(t, g)) / 2, truth, guesses)


PART = PearsonSpearman()
