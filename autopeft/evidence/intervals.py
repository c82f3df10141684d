"""Confidence intervals of scores that are looked at once, and of the chance that a run diverges.

Every table of scores has shape (S, N): one row per seed, one column per example of the split, in the same
order in both tables. **Larger is better**: a caller with losses negates them. `look` is for scores that are
looked at after every seed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from autopeft.evidence.checks import check_span, checked_pair, checked_table
from autopeft.evidence.examples import INDEPENDENT, Examples
from autopeft.evidence.pooling import pooled
from autopeft.evidence.variance import (
    Floats,
    MeanSquares,
    apart_by,
    half_width,
    moments,
    pseudo_differences,
    rounding_floor,
)

_Z95 = 1.959964  # the 97.5 % point of the normal distribution


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean with its confidence interval, `low < mean < high`; `level` is the two-sided coverage."""

    mean: float
    std_error: float
    low: float
    high: float
    level: float


def least_difference(n_examples: int, *, disagreement: float) -> float:
    """Half width of the 95 % interval between two plans of equal accuracy, in [0, 1]; seeds add to it.

    Args:
        n_examples: Examples of the confirm split, >= 1.
        disagreement: Share of examples at which one plan alone is right, in [0, 1].

    Source: variance of a difference of paired proportions (McNemar 1947).

    Example:
        >>> round(least_difference(400, disagreement=0.1), 3)
        0.031
    """
    return _Z95 * math.sqrt(disagreement / n_examples)


def paired_interval(
    best: npt.ArrayLike,
    baseline: npt.ArrayLike,
    *,
    level: float = 0.95,
    span: float | None = 1.0,
    examples: Examples = INDEPENDENT,
    pool: Sequence[npt.ArrayLike] = (),
    margin: float = 0.0,
) -> Interval:
    """Paired t interval of the mean of `best - baseline` over seeds and examples.

    It may be trusted from two seeds on (coverage: see `half_width`), if seeds, and examples or the groups of
    `examples`, are independent. Equal scores on a small split must not pass for certainty. So scores get four
    pseudo-examples of half weight, as Agresti and Min add to the 2 x 2 table of two classifiers: differences
    of 0, +step, -step, 0.

    Args:
        best: Scores of shape (S, N), S >= 2, N >= 2; larger is better.
        baseline: Scores of the same shape, seeds and examples.
        level: Two-sided coverage, in (0, 1).
        span: Width of the range of the scores, > 0 (1 for accuracy); None where they have no bounds (losses).
        examples: By how much they differ that one plan alone has right, and which of them belong together.
        pool: Scores of all plans whose seeds' variance is pooled, `best` and `baseline` first, on the same
            seeds and examples (see `pooling`); without them the variance is that of the differences alone.
        margin: Difference that the interval tests for, >= 0 (see `apart_by`); 0 for any other use.

    Returns:
        The interval, centred on the plain mean. Its width is never zero: the standard error is at least one
        float32 rounding of the largest score (1.2e-7 of it, or of 1).

    Raises:
        SpecError: Fewer than 2 examples, or scores further apart than `span`.

    Source:
        Width: `half_width`. Agresti & Min 2005, Statistics in Medicine 24:729; we keep the plain mean as
        centre and N as divisor, which is slightly wider.

    Example:
        >>> same = [[1, 0, 1, 1], [1, 0, 1, 1]]
        >>> interval = paired_interval(same, same)
        >>> interval.mean, interval.low < 0 < interval.high
        (0.0, True)
    """
    assert 0 < level < 1, level
    difference, scale = checked_pair(best, baseline, span)
    assert difference.shape[0] >= 2, "a paired interval needs 2 seeds or more"
    step, groups = examples.step or span, examples.groups
    squares = _squares(difference, groups, pseudo=pseudo_differences(step), scale=scale)
    plans = [moments(checked_table(table), groups) for table in pool]
    squares = apart_by(margin, pooled(squares, plans, np.ones(len(difference))), step=step)
    mean, half = float(squares.mean), float(half_width(squares, 1 - level))
    bound = math.inf if span is None else span  # two seeds and few examples can give a half-width beyond it
    low, high = max(-bound, mean - half), min(bound, mean + half)
    return Interval(mean=mean, std_error=float(squares.std_error), low=low, high=high, level=level)


def mean_and_std_error(
    scores: npt.ArrayLike, *, span: float | None = 1.0, examples: Examples = INDEPENDENT
) -> tuple[float, float]:
    """Mean score of one plan and its standard error over seeds and examples.

    The variance model and the errors are those of `paired_interval`. With one seed the standard error, > 0,
    covers the examples alone. Scores in [0, span] get two pseudo-examples of 0 and two of `span`, of half
    weight each; without a span the step of `examples` stands for it.

    Example:
        >>> mean, std_error = mean_and_std_error([[1, 1, 1, 0]])
        >>> mean, round(std_error, 3)
        (0.75, 0.339)
    """
    table = checked_table(scores)
    check_span(float(np.ptp(table)), span)
    most = examples.step or span
    pseudo = () if most is None else (0.0, 0.0, most, most)
    squares = _squares(table, examples.groups, pseudo=pseudo, scale=float(np.abs(table).max()))
    return float(squares.mean), float(squares.std_error)


def divergence_chance(n_diverged: int, n_seeds: int) -> tuple[float, float]:
    """Clopper-Pearson 95 % interval of the chance that a run diverges, in [0, 1].

    No interval of a mean knows of a failure that no seed showed. After 0 of 3 diverged runs the chance may
    still be 71 %, after 0 of 10 still 31 %. The interval covers at least 95 % for every number of seeds
    (Clopper & Pearson 1934, Biometrika 26:404).

    Example:
        >>> low, high = divergence_chance(0, 10)
        >>> low, round(high, 3)
        (0.0, 0.308)
    """
    assert 0 <= n_diverged <= n_seeds and n_seeds >= 1, (n_diverged, n_seeds)
    n_finished = n_seeds - n_diverged
    low = float(stats.beta.ppf(0.025, n_diverged, n_finished + 1)) if n_diverged else 0.0
    high = float(stats.beta.ppf(0.975, n_diverged + 1, n_finished)) if n_finished else 1.0
    return low, high


def chance_if_alike(n_finished: int, n_seeds: int) -> float:
    """Largest chance that one of two alike plans never finishes and the other `n_finished` times or more.

    It is taken over all chances q of a run to diverge: q**n P(X >= n_finished) with X finished runs of n.

    Example:
        >>> round(chance_if_alike(2, 2), 4), round(chance_if_alike(3, 3), 4)  # 1 / 4**n, at q = 1 / 2
        (0.0625, 0.0156)
    """
    chances = np.linspace(0.0, 1.0, 1001)
    both = chances**n_seeds * stats.binom.sf(n_finished - 1, n_seeds, 1 - chances)
    return float(both.max())


def _squares(table: Floats, groups: Sequence[int], *, pseudo: tuple[float, ...], scale: float) -> MeanSquares:
    return moments(table, groups).squares(np.ones(len(table)), pseudo=pseudo, floor=rounding_floor(scale))
