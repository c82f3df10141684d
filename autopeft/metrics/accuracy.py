"""Accuracy: the share of examples whose class is right."""

from __future__ import annotations

from autopeft.metrics.parts.label_metric import Floats, LabelMetric, Scored, mean_of


def _score(truth: Floats, guesses: Floats) -> Scored:
    return mean_of((truth == guesses).astype(float))


PART = LabelMetric(
    name="accuracy",
    kinds=("class", "choice"),
    score=_score,
    default_for=("class", "choice"),
    is_share=True,
    score_span=1.0,
)
