"""Exact match: the share of examples all of whose labels are right."""

from __future__ import annotations

from dataclasses import dataclass

from autopeft.metrics._jackknife import Floats, Scored


@dataclass(frozen=True)
class ExactMatch:
    """Hits, each 0 or 1."""

    name: str = "exact-match"
    kinds: tuple[str, ...] = ("classes",)
    greater_is_better: bool = True
    score_span: float | None = 1.0

    def scored(self, truth: Floats, guesses: Floats) -> Scored:
        """Truth and guesses of shape (N, C), 0 or 1."""
        hits = (truth == guesses).all(axis=1).astype(float)
        return float(hits.mean()), tuple(hits.tolist())


PART = ExactMatch()
