"""Pearson's correlation of numbers, in [-1, 1]; 0 where one side is constant."""

from functools import partial

from autopeft.metrics.parts.label_metric import LabelMetric, jackknife, pearson

PART = LabelMetric(
    name="pearson",
    label="Pearson's r",
    kinds=("number",),
    score=partial(jackknife, pearson),
    default_for=("number",),
    chance=0.0,
)
