"""Metrics of labels, one file each, with one score per example; tasks of tokens and texts have their own.

For a metric that is no mean of examples, `jackknife` makes the scores from a plain function.
"""

from autopeft.metrics.parts.label_metric import (
    Floats,
    LabelMetric,
    Scored,
    f1_of_counts,
    jackknife,
    pseudo_values,
    ratio_scores,
)

__all__ = ["Floats", "LabelMetric", "Scored", "f1_of_counts", "jackknife", "pseudo_values", "ratio_scores"]
