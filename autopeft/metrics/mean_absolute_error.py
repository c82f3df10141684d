"""Mean absolute error of numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from autopeft.metrics._jackknife import Floats, Scored


@dataclass(frozen=True)
class MeanAbsoluteError:
    """Lower is better."""

    name: str = "mean-absolute-error"
    kinds: tuple[str, ...] = ("number",)
    greater_is_better: bool = False
    score_span: float | None = None

    def scored(self, truth: Floats, guesses: Floats) -> Scored:
        """Truth and guesses of shape (N,)."""
        errors = np.abs(guesses - truth)
        return float(errors.mean()), tuple(errors.tolist())


PART = MeanAbsoluteError()
