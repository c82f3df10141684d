"""Spearman's rank correlation of numbers, in [-1, 1]; 0 where one side is constant."""

from functools import partial

from autopeft.metrics.parts.label_metric import LabelMetric, jackknife, spearman

PART = LabelMetric(
    name="spearman",
    label="Spearman's ρ",
    kinds=("number",),
    score=partial(jackknife, spearman),
    chance=0.0,
)
