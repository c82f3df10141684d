"""Mean absolute error of numbers; lower is better."""

import numpy as np

from autopeft.metrics.parts.label_metric import LabelMetric, mean_of

PART = LabelMetric(
    name="mean-absolute-error",
    label="mean absolute error",
    kinds=("number",),
    score=lambda truth, guesses: mean_of(np.abs(guesses - truth)),
    greater_is_better=False,
)
