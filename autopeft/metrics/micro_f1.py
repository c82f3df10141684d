"""Micro-F1: F1 over all labels of all examples, by scikit-learn."""

from functools import partial

from autopeft.metrics.parts.label_metric import LabelMetric, score_f1_of_labels

PART = LabelMetric(
    name="micro-f1",
    label="micro-F1",
    kinds=("classes",),
    score=partial(score_f1_of_labels, average="micro"),
    default_for=("classes",),
    is_share=True,
)
