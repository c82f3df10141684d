"""Paired intervals over rows and seeds: how far two trained plans differ, and how sure that is.

A new user brings new rows and trains with another seed, so an interval has to hold for both. One run shows
how much rows differ, but not what another seed would change: that comes from recorded runs (`SEED_ROWS`), or
is measured if several seeds ran. The scores follow a two-way random model with one score per cell. With S
seeds, N rows, mean squares MS, and s**2 the variance between the rows of one seed,

    S Var(mean) = max(MS_seed / N, s**2 / SEED_ROWS + MS_residual / N) + max(MS_row - MS_residual, 0) / N.

For one seed this is s**2 (1 / N + 1 / SEED_ROWS).

Source:
    Searle, Casella & McCulloch 1992, "Variance Components", chapter 4 (two-way random model, one observation
    per cell). We never take the variance between seeds to be below the recorded one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from autopeft.errors import SpecError

Floats = npt.NDArray[np.float64]

# Another seed moves the difference of two plans as much as a fresh draw of so many rows does. Recorded runs
# give 630 to 790 on average over sets, and 190 to over 2,000 on single ones. With 400 another seed
# contradicts less than 5 % of claims (research/2026-11-29-verdict.md).
SEED_ROWS = 400
_TAIL = 0.025  # chance that a 95 % interval lies above the truth
_FLOAT32_ROUNDING = float(np.finfo(np.float32).eps)  # scores are measured in float32


@dataclass(frozen=True, kw_only=True)
class Examples:
    """How much one row can change a score, and which rows of a split belong together.

    `step`, > 0, is the difference of two plans' scores on a row that one plan has right and the other wrong;
    None uses the span of the scores. Without step and span (losses) no pseudo-rows are added. `groups` has
    one number for each row, equal for rows that belong together; empty if all rows are independent. Rows that
    are all of one group count as independent, since how much groups differ is unknown.
    """

    step: float | None = None
    groups: Sequence[int] = ()


INDEPENDENT = Examples()


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Challenger minus baseline over all seeds and rows, in units of the scores, where larger is better.

    `std_error`, > 0, is over new rows and new seeds. `low` and `high` are the ends of the 95 % interval.
    """

    mean: float
    std_error: float
    low: float
    high: float
    n_examples: int
    n_seeds: int


def paired_difference(
    challenger: npt.ArrayLike,
    baseline: npt.ArrayLike,
    *,
    span: float | None,
    examples: Examples = INDEPENDENT,
    n_challengers: int = 1,
) -> Difference:
    """Compare two plans row by row, with the 95 % interval of their expected difference.

    The interval covers the mean over new rows of the same kind and over new seeds, both plans trained with
    the same seed. Plans with equal scores on few rows may still differ. So four pseudo-rows of half weight
    are added, with differences of 0, +step, -step and 0, as Agresti and Min do for two classifiers.

    `challenger` and `baseline` are scores of shape (S, N). With one number per run, N = 1 and S >= 2: the
    seeds replace the rows, and the interval does not cover new rows. `span` > 0 is the width of the range of
    the scores (1 for accuracy); None where they have no bounds. If this challenger has the best scores on
    these rows of `n_challengers`, the interval is widened so that those of all hold at once (Bonferroni).

    The mean is the plain one. The standard error is at least one float32 rounding of the largest score, or of
    1 if that is larger (1.2e-7 of it). Raises SpecError for fewer than 2 rows.

    Source:
        Agresti & Min 2005, Statistics in Medicine 24:729; we keep the plain mean as centre and N as divisor,
        which is slightly wider.
    """
    challengers, defaults = _checked(challenger), _checked(baseline)
    is_by_seeds = np.shape(challenger) != challengers.shape  # one number per run: seeds replace rows
    assert challengers.shape == defaults.shape, f"shapes {challengers.shape} and {defaults.shape} differ"
    assert n_challengers >= 1, n_challengers
    table = challengers - defaults
    assert span is None or np.abs(table).max() <= span * (1 + _FLOAT32_ROUNDING), "scores exceed their span"
    step = None if is_by_seeds else examples.step or span
    pseudo = () if step is None else (0.0, step, -step, 0.0)
    seed_rows = math.inf if is_by_seeds else SEED_ROWS
    variance, freedom = _variance(table, examples.groups, pseudo=pseudo, seed_rows=seed_rows)
    scale = max(float(np.abs(challengers).max()), float(np.abs(defaults).max()))
    mean, std_error = float(table.mean()), _std_error(variance, scale)
    half = float(-special.stdtrit(freedom, _TAIL / n_challengers)) * std_error
    bound = math.inf if span is None else span  # with few groups the half width can exceed the span
    n_seeds, n_examples = table.shape[::-1] if is_by_seeds else table.shape
    return Difference(
        mean=mean,
        std_error=std_error,
        low=max(-bound, mean - half),
        high=min(bound, mean + half),
        n_examples=n_examples,
        n_seeds=n_seeds,
    )


def mean_and_std_error(
    scores: npt.ArrayLike, *, span: float | None = 1.0, examples: Examples = INDEPENDENT
) -> tuple[float, float]:
    """Return the mean of scores (S, N) and its standard error, over rows, and over seeds if several.

    The scores are those of one plan, or the gaps between two. With one seed the standard error, > 0, is that
    of the weights at hand on new rows. Two pseudo-rows of 0 and two of the step of `examples`, or of `span`,
    are added, of half weight each. None are added to one number per run, or without step and span.
    """
    table = _checked(scores)
    most = None if np.shape(scores) != table.shape else examples.step or span
    pseudo = () if most is None else (0.0, 0.0, most, most)
    variance, _ = _variance(table, examples.groups, pseudo=pseudo, seed_rows=math.inf)
    return float(table.mean()), _std_error(variance, float(np.abs(table).max()))


def least_difference(n_examples: int, disagreement: float) -> float:
    """Predict the half width of the 95 % interval of two equally good plans with one seed; a share, >= 0.

    `n_examples` counts the rows of the confirm split; `disagreement` is the share of them that one plan alone
    has right.

    Source: variance of a difference of paired proportions (McNemar 1947), and of seeds (`SEED_ROWS`).
    """
    return float(-special.ndtri(_TAIL)) * math.sqrt(disagreement * (1 / n_examples + 1 / SEED_ROWS))


def _checked(scores: npt.ArrayLike) -> Floats:
    """Return scores as an array (S, N), or (1, S) if N is 1; raise SpecError for fewer than 2 columns."""
    table = np.asarray(scores, dtype=np.float64)
    assert table.ndim == 2 and table.shape[0] >= 1, f"scores of shape {table.shape}, not (S, N)"
    table = table.T if table.shape[1] == 1 else table
    assert np.isfinite(table).all(), "scores must be finite"
    if (n_examples := table.shape[1]) < 2:
        raise SpecError(
            f"An interval needs at least 2 examples and the split for the verdict has {n_examples}; "
            "use a larger dataset."
        )
    return table


def _variance(
    table: Floats, groups: Sequence[int], *, pseudo: tuple[float, ...], seed_rows: float
) -> tuple[float, float]:
    """Estimate the variance of the mean of a table (S, N), and the degrees of freedom of the rows.

    The formula is in the module's docstring. If rows belong together, its rows are groups, except in s**2.
    `pseudo` are extra scores, equal on all seeds, that count as half a row each.
    """
    n_seeds, n_rows = table.shape
    units, freedom = _units(table, groups)
    n_units = units.shape[1]
    mean, by_seed, by_unit = units.mean(), units.mean(axis=1, keepdims=True), units.mean(axis=0)
    extra = 0.5 * sum((score - mean) ** 2 for score in pseudo)
    # In a mean over groups a row weighs as much as so many groups.
    spread = ((by_unit - mean) ** 2).sum() + (n_units / n_rows) ** 2 * extra
    unit_square = n_seeds * spread / (n_units - 1)
    seed_square = residual_square = 0.0
    if n_seeds > 1:
        seed_square = n_units * float(by_seed.var(ddof=1))
        residuals = units - by_seed - by_unit + mean
        residual_square = float((residuals**2).sum()) / ((n_seeds - 1) * (n_units - 1))
    within = ((table - table.mean(axis=1, keepdims=True)) ** 2).sum(axis=1).mean()
    recorded = float(within + extra) / (n_rows - 1) / seed_rows
    of_seeds = max(seed_square / n_units, recorded + residual_square / n_units)
    of_units = max(float(unit_square) - residual_square, 0.0) / n_units
    return (of_seeds + of_units) / n_seeds, freedom


def _units(table: Floats, groups: Sequence[int]) -> tuple[Floats, float]:
    """Turn scores (S, N) into scores (S, G) of G independent groups; return their degrees of freedom too.

    Rows that belong together (the sentences of a document, the recordings of a speaker) are alike, and have
    less information than as many independent ones. The score of a group is the jackknife's pseudo-value: with
    n_g rows in group g, T_g the sum of their scores and m the mean of all N,

        score of the group = m + c_g - mean of c,    c_g = (G - 1) (T_g - n_g m) / (N - n_g).

    The mean of a seed stays as it is. For groups of equal size the scores are the groups' means. The degrees
    of freedom are one less than the effective number of groups, N**2 / sum of n_g**2, and 1 at least. If each
    row is a group, or all rows are one group, the rows themselves are returned.

    On 100 to 1,300 normal scores with a correlation of 0.05 to 0.5 within groups, 5 to 200 groups of equal or
    very different size, 95 % intervals hold the truth in 94.3 to 96.4 %. Rejected: the sandwich estimate with
    G - 1 degrees of freedom (89 % for log-normal sizes, 61 % where one group has half of the rows).

    Source:
        MacKinnon, Nielsen & Webb 2023, Journal of Applied Econometrics 38:671 (the cluster jackknife);
        Carter, Schnepel & Steigerwald 2017, Review of Economics and Statistics 99:698 (effective number of
        clusters).

    Example:
        >>> _units(np.array([[1.0, 0.0, 1.0, 1.0]]), [7, 7, 8, 8])
        (array([[0.5, 1. ]]), 1.0)
    """
    n = table.shape[1]
    assert len(groups) in (0, n), f"{len(groups)} groups of {n} examples"
    _, numbers, sizes = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    if not 1 < (n_groups := len(sizes)) < n:
        return table, float(n - 1)
    sums = np.stack([np.bincount(numbers, weights=scores) for scores in table])
    mean = table.mean(axis=1, keepdims=True)
    moved = (n_groups - 1) * (sums - sizes * mean) / (n - sizes)
    freedom = max(n**2 / float((sizes**2).sum()) - 1, 1.0)
    return mean + moved - moved.mean(axis=1, keepdims=True), freedom


def _std_error(variance: float, scale: float) -> float:
    """Return the root of a variance, at least one float32 rounding of `scale`, or of 1 if larger."""
    return max(math.sqrt(variance), _FLOAT32_ROUNDING * max(1.0, scale))
