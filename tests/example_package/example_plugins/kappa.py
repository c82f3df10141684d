"""A metric: Cohen's kappa, agreement beyond chance, of any task with one class per example.

In [-1, 1]. It is not a mean over examples, so its scores are pseudo-values.
"""

from __future__ import annotations

from functools import partial

from sklearn.metrics import cohen_kappa_score

from autopeft.metrics import Floats, jackknife
from autopeft.plugins import Metric


def _kappa(truth: Floats, guesses: Floats) -> float:
    """0 where all examples have one class, as there is nothing to agree on."""
    has_one_class = len({*truth.tolist(), *guesses.tolist()}) < 2
    return 0.0 if has_one_class else float(cohen_kappa_score(truth, guesses))


PLUGIN = Metric(name="kappa", kinds=("class",), score=partial(jackknife, _kappa))
