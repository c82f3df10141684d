"""Mean absolute error of numbers; lower is better."""

from __future__ import annotations

import numpy as np

from autopeft.metrics.parts.label_metric import Floats, LabelMetric, Scored, mean_of


def _score(truth: Floats, guesses: Floats) -> Scored:
    return mean_of(np.abs(guesses - truth))


PART = LabelMetric(name="mean-absolute-error", kinds=("number",), score=_score, greater_is_better=False)
