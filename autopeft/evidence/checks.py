"""Refusals of scores and margins from which no interval can be computed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from autopeft.errors import SpecError
from autopeft.evidence.variance import FLOAT32_ROUNDING, Floats


def checked_table(scores: npt.ArrayLike) -> Floats:
    """The scores as a finite array of shape (S, N); raises `SpecError` for fewer than 2 examples."""
    table = np.asarray(scores, dtype=np.float64)
    assert table.ndim == 2 and table.shape[0] >= 1, f"scores of shape {table.shape}, not (S, N)"
    assert np.isfinite(table).all(), "scores must be finite; give a diverged seed its worst possible scores"
    if (n_examples := table.shape[1]) < 2:
        raise SpecError(
            f"An interval needs at least 2 examples and the split for the verdict has {n_examples}; "
            "give a larger dataset or use --confirm none."
        )
    return table


def checked_pair(best: npt.ArrayLike, baseline: npt.ArrayLike, span: float | None) -> tuple[Floats, float]:
    """Differences (S, N) of two tables of one shape, and the largest absolute score of both."""
    first, second = checked_table(best), checked_table(baseline)
    assert first.shape == second.shape, f"shapes {first.shape} and {second.shape} differ"
    difference = first - second
    check_span(float(np.abs(difference).max()), span)
    return difference, max(float(np.abs(first).max()), float(np.abs(second).max()))


def check_span(widest: float, span: float | None) -> None:
    """Raises `SpecError` where two scores lie further apart than the task's range is wide."""
    assert span is None or span > 0, span
    if span is not None and widest > span * (1 + FLOAT32_ROUNDING):
        raise SpecError(
            f"The task says that its scores lie in a range of width {span:g}, but two are {widest:g} apart; "
            "correct the task's range or declare it unbounded."
        )


def check_margin(margin: float) -> None:
    """Raises `SpecError` for a margin that is not above 0."""
    if not margin > 0:
        raise SpecError(f"The margin is {margin:g} and must be above 0; raise --margin.")
