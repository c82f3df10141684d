"""Matthews' correlation coefficient of classes in [-1, 1]; 0 for guesses by chance, or all of one class.

Source:
    Gorodkin 2004, Computational Biology and Chemistry 28:367, for several classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from autopeft.metrics.parts.label_metric import Floats, LabelMetric, Scored, class_codes, pseudo_values


def _score(truth: Floats, guesses: Floats) -> Scored:
    """Truth and guesses: classes of shape (N,); the counts without each example follow from those with it."""
    true, guessed, n_classes = class_codes(truth, guesses)
    is_hit = (true == guessed).astype(float)
    of_true, of_guessed = (np.bincount(codes, minlength=n_classes).astype(float) for codes in (true, guessed))
    n, n_hits = len(true), is_hit.sum()
    products, true_squares, guessed_squares = (
        float(a @ b) for a, b in ((of_true, of_guessed), (of_true, of_true), (of_guessed, of_guessed))
    )
    value = float(_coefficient(n, n_hits, products, true_squares, guessed_squares))
    if n == 1:
        return value, (value,)
    without = _coefficient(
        n - 1,
        n_hits - is_hit,
        products - of_true[guessed] - of_guessed[true] + is_hit,
        true_squares - 2 * of_true[true] + 1,
        guessed_squares - 2 * of_guessed[guessed] + 1,
    )
    return value, pseudo_values(value, without)


def _coefficient(n: int, n_hits: Any, products: Any, true_squares: Any, guessed_squares: Any) -> Any:
    """The coefficient from sums over classes: of true times guessed counts, and of their squares."""
    spread = (n * n - true_squares) * (n * n - guessed_squares)
    covariance = n_hits * n - products
    return np.divide(covariance, np.sqrt(spread), out=np.zeros(np.shape(spread)), where=spread > 0)


PART = LabelMetric(name="matthews", label="Matthews correlation", kinds=("class",), score=_score, chance=0.0)
