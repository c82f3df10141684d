"""The interval of a mean difference over seeds and examples, looked at once, and what it proves.

Every table of scores here has shape (S, N): one row per seed, one column per
example of the split, both in a common order. **Larger is better in all inputs**;
a caller with losses, or another metric where less is better, negates the scores.
`components` has the variance model; `look` is for scores that are looked at after every seed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autopeft.evidence.components import (
    MeanSquares,
    Table,
    check_margin,
    check_span,
    checked_pair,
    checked_table,
    half_width,
    moments,
    pseudo_differences,
    rounding_floor,
)


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean with its confidence interval: `low < mean < high`, in units of the scores.

    `level` is the two-sided coverage aimed at, in (0, 1). `std_error` is > 0.
    """

    mean: float
    std_error: float
    low: float
    high: float
    level: float


def paired_interval(
    best: npt.ArrayLike, baseline: npt.ArrayLike, *, level: float = 0.95, span: float | None = 1.0
) -> Interval:
    """Confidence interval of the mean of `best - baseline` over seeds and examples.

    Scores in a range of width `span` get Agresti and Min's half a pseudo-example in each
    of the cells (1, 1), (1, 0), (0, 1), (0, 0): differences of 0, +span, -span and 0.
    Without them equal scores on a small split would pass for certainty.

    Args:
        best: Scores of shape (S, N), S >= 2, N >= 2; larger is better.
        baseline: Scores of the same shape, seeds and examples.
        level: Two-sided coverage, in (0, 1).
        span: Width of the range of the scores, > 0 (1 for accuracy); None where they have no
            bounds (losses). Then the standard error is at least one float32 rounding of
            the largest score (1.2e-7 of it, or of 1).

    Returns:
        The interval, never of zero width, centred on the plain mean.

    Raises:
        SpecError: Fewer than 2 examples, or scores further apart than `span`.

    Source:
        Width: `half_width`. Agresti & Min 2005, Statistics in Medicine 24:729; we keep
        the plain mean as centre and N as divisor, which is slightly wider.

    Example:
        >>> same = [[1, 0, 1, 1], [1, 0, 1, 1]]
        >>> interval = paired_interval(same, same)
        >>> interval.mean, interval.low < 0 < interval.high
        (0.0, True)
    """
    assert 0 < level < 1, level
    difference, scale = checked_pair(best, baseline, span)
    assert difference.shape[0] >= 2, "a paired interval needs 2 seeds or more"
    squares = _squares(difference, pseudo=pseudo_differences(span), scale=scale)
    mean, half = float(squares.mean), float(half_width(squares, 1 - level))
    bound = math.inf if span is None else span  # two seeds and few examples would reach beyond what there is
    low, high = max(-bound, mean - half), min(bound, mean + half)
    return Interval(mean=mean, std_error=float(squares.std_error), low=low, high=high, level=level)


def mean_and_std_error(scores: npt.ArrayLike, *, span: float | None = 1.0) -> tuple[float, float]:
    """Mean score of one plan and its standard error over seeds and examples.

    The variance model is that of `paired_interval`; one seed leaves the examples alone. Of
    bounded scores, in [0, span], the half pseudo-examples are two of 0 and two of `span`.

    Args:
        scores: Shape (S, N), S >= 1, N >= 2; larger is better.
        span: Largest score there can be, > 0; None where there are no bounds.

    Returns:
        The plain mean and a standard error > 0, both in units of the scores.

    Raises:
        SpecError: Fewer than 2 examples, or scores further apart than `span`.

    Example:
        >>> mean, std_error = mean_and_std_error([[1, 1, 1, 0]])
        >>> mean, round(std_error, 3)
        (0.75, 0.339)
    """
    table = checked_table(scores)
    check_span(float(np.ptp(table)), span)
    pseudo = () if span is None else (0.0, 0.0, span, span)
    squares = _squares(table, pseudo=pseudo, scale=float(np.abs(table).max()))
    return float(squares.mean), float(squares.std_error)


def label(best: npt.ArrayLike, baseline: npt.ArrayLike, *, margin: float, span: float | None = 1.0) -> str:
    """One word for best against baseline: better, worse, equivalent or inconclusive.

    `better` (95 % interval above 0) and `worse` (below 0) win over `equivalent` (90 %
    interval within ± margin, two one-sided tests at 5 %): a proven difference is told
    even where it is small. So swapping the plans swaps better and worse.

    Args:
        best: Scores, with `baseline` and `span` as in `paired_interval`.
        baseline: Scores.
        margin: Largest difference that does not matter, > 0, in units of the scores.
        span: Width of the range.

    Raises:
        SpecError: As `paired_interval`, or a margin that is not above 0.

    Source:
        Schuirmann 1987, J. Pharmacokinetics and Biopharmaceutics 15:657 (two one-sided tests).

    Example:
        >>> label([[1] * 90, [1] * 90], [[0] * 90, [0] * 90], margin=0.01)
        'better'
    """
    check_margin(margin)
    wide = paired_interval(best, baseline, level=0.95, span=span)
    narrow = paired_interval(best, baseline, level=0.90, span=span)
    if wide.low > 0:
        return "better"
    if wide.high < 0:
        return "worse"
    if -margin < narrow.low and narrow.high < margin:
        return "equivalent"
    return "inconclusive"


def within_margin(
    small: npt.ArrayLike, best: npt.ArrayLike, *, margin: float, span: float | None = 1.0
) -> bool:
    """Whether `small` is proven to lose less than `margin` against `best`.

    Proven means that the one-sided 95 % lower bound of `small - best`, the low end of
    the 90 % interval, is above -margin. Arguments and errors are those of `label`.

    Example:
        >>> within_margin([[1] * 400, [1] * 400], [[1] * 400, [1] * 400], margin=0.01)
        True
    """
    check_margin(margin)
    return paired_interval(small, best, level=0.90, span=span).low > -margin


def _squares(table: Table, *, pseudo: tuple[float, ...], scale: float) -> MeanSquares:
    """Mean squares of all seeds of one table."""
    every = np.ones((1, len(table)))
    return moments(table).squares(every, pseudo=pseudo, floor=rounding_floor(scale)).flat()
