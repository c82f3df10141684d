"""Spearman's rank correlation of numbers, in [-1, 1]; 0 where one side is constant."""

from functools import partial

from autopeft.metrics.parts.example_scores import jackknife, spearman
from autopeft.metrics.parts.label_metric import LabelMetric

PART = LabelMetric(name="spearman", kinds=("number",), score=partial(jackknife, spearman))
