"""Accuracy: the share of examples whose class is right."""

from __future__ import annotations

from dataclasses import dataclass

from autopeft.metrics._jackknife import Floats, Scored


@dataclass(frozen=True)
class Accuracy:
    """Hits, each 0 or 1."""

    name: str = "accuracy"
    kinds: tuple[str, ...] = ("class",)
    greater_is_better: bool = True
    score_span: float | None = 1.0

    def scored(self, truth: Floats, guesses: Floats) -> Scored:
        """Truth and guesses of shape (N,)."""
        hits = (truth == guesses).astype(float)
        return float(hits.mean()), tuple(hits.tolist())


PART = Accuracy()
