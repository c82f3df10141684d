"""Micro-F1: F1 over all labels of all examples, by scikit-learn."""

from __future__ import annotations

from dataclasses import dataclass

from autopeft.metrics._jackknife import Floats, Scored
from autopeft.metrics._several import f1_without_each


@dataclass(frozen=True)
class MicroF1:
    """Every label of every example weighs the same."""

    name: str = "micro-f1"
    kinds: tuple[str, ...] = ("classes",)
    greater_is_better: bool = True
    score_span: float | None = None

    def scored(self, truth: Floats, guesses: Floats) -> Scored:
        """Truth and guesses of shape (N, C), 0 or 1."""
        return f1_without_each(truth, guesses, average="micro")


PART = MicroF1()
