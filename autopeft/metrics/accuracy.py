"""Accuracy: the share of examples whose class is right."""

from autopeft.metrics.parts.label_metric import LabelMetric, mean_of

PART = LabelMetric(
    name="accuracy",
    kinds=("class", "choice"),
    score=lambda truth, guesses: mean_of(truth == guesses),
    default_for=("class", "choice"),
    is_share=True,
    score_span=1.0,
)
