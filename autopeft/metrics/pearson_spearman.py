"""The mean of Pearson's and Spearman's correlation, in [-1, 1]: the metric of GLUE's STS-B."""

from __future__ import annotations

from functools import partial

from autopeft.metrics.parts.label_metric import Floats, LabelMetric, jackknife, pearson, spearman


def _mean_correlation(truth: Floats, guesses: Floats) -> float:
    return (pearson(truth, guesses) + spearman(truth, guesses)) / 2


PART = LabelMetric(
    name="pearson-spearman",
    label="mean of Pearson and Spearman",
    kinds=("number",),
    score=partial(jackknife, _mean_correlation),
    chance=0.0,
)
