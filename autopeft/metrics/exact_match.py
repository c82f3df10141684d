"""Exact match: the share of examples all of whose labels are right."""

from autopeft.metrics.parts.label_metric import LabelMetric, mean_of

PART = LabelMetric(
    name="exact-match",
    label="exact match",
    kinds=("classes",),
    score=lambda truth, guesses: mean_of((truth == guesses).all(axis=1)),
    is_share=True,
    score_span=1.0,
)
