"""Exact match: the share of examples all of whose labels are right."""

from __future__ import annotations

from autopeft.metrics.parts.label_metric import Floats, LabelMetric, Scored, mean_of


def _score(truth: Floats, guesses: Floats) -> Scored:
    """Truth and guesses of shape (N, C), 0 or 1."""
    return mean_of((truth == guesses).all(axis=1).astype(float))


PART = LabelMetric(name="exact-match", kinds=("classes",), score=_score, is_share=True, score_span=1.0)
