"""Rows in groups: closed forms, jackknife by brute force, bootstrap, and rates of false claims."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from autopeft.statistics import SEED_ROWS, Examples, mean_and_std_error, paired_difference

Floats = npt.NDArray[np.float64]
Groups = npt.NDArray[np.int64]
UNEVEN: Groups = np.repeat(np.arange(12), [1, 1, 2, 2, 3, 4, 5, 6, 8, 9, 12, 20])


def drawn(groups: Groups, *, within: float = 0.5, seed: int = 0) -> tuple[Floats, Floats]:
    """Scores (1, N) of two plans, of variance 1 and a correlation `within` groups."""
    rng = np.random.default_rng(seed)
    first, second = (
        math.sqrt(within) * rng.normal(size=(1, groups.max() + 1))[:, groups]
        + math.sqrt(1 - within) * rng.normal(size=(1, len(groups)))
        for _ in range(2)
    )
    return first, second


def by_groups(pair: tuple[Floats, Floats], groups: Groups) -> tuple[float, float, float]:
    """Mean, variance over groups alone (without that of seeds), and the quantile of the interval."""
    difference = paired_difference(*pair, span=None, examples=Examples(groups=groups.tolist()))
    seeds = (pair[0] - pair[1]).var(ddof=1) / SEED_ROWS  # over rows, whatever the groups are
    quantile = (difference.high - difference.mean) / difference.std_error
    return difference.mean, difference.std_error**2 - seeds, quantile


def test_groups_of_equal_size_give_the_paired_t_over_their_means() -> None:
    groups = np.arange(60) % 6  # neighbours are of different groups
    pair = drawn(groups)
    first, second = ([scores[0][groups == g].mean() for g in range(6)] for scores in pair)
    expected = stats.ttest_rel(first, second).confidence_interval(0.95)
    mean, variance, quantile = by_groups(pair, groups)
    half = quantile * math.sqrt(variance)
    assert (mean - half, mean + half) == pytest.approx((expected.low, expected.high), rel=1e-9)


def test_groups_of_equal_size_stand_for_rows_with_several_seeds_too() -> None:
    groups, scores = np.arange(60) % 6, np.random.default_rng(4).normal(size=(3, 60))
    means = np.stack([scores[:, groups == g].mean(axis=1) for g in range(6)], axis=1)
    by_rows = mean_and_std_error(scores, span=None, examples=Examples(groups=groups.tolist()))
    assert by_rows == pytest.approx(mean_and_std_error(means, span=None))


def test_groups_of_any_size_give_the_interval_of_the_jackknife_that_leaves_out_groups() -> None:
    pair = drawn(UNEVEN)
    difference = (pair[0] - pair[1])[0]
    left = np.array([np.delete(difference, np.flatnonzero(g == UNEVEN)).mean() for g in range(12)])
    shuffled = np.random.default_rng(1).permutation(73)
    mixed = pair[0][:, shuffled], pair[1][:, shuffled]
    mean, variance, quantile = by_groups(mixed, UNEVEN[shuffled])
    assert mean == pytest.approx(difference.mean())
    assert variance == pytest.approx(11 / 12 * ((left - left.mean()) ** 2).sum())
    freedom = 73**2 / sum(size**2 for size in np.bincount(UNEVEN)) - 1
    assert quantile == pytest.approx(stats.t.isf(0.025, freedom))


def test_the_standard_error_is_that_of_a_bootstrap_of_groups() -> None:
    groups = np.repeat(np.arange(150), np.random.default_rng(2).integers(1, 8, size=150))
    scores, _ = drawn(groups)
    sums, sizes = (np.bincount(groups, weights=each) for each in (scores[0], np.ones(len(groups))))
    chosen = np.random.default_rng(3).integers(150, size=(4000, 150))
    means = sums[chosen].sum(axis=1) / sizes[chosen].sum(axis=1)
    _, std_error = mean_and_std_error(scores, span=None, examples=Examples(groups=groups.tolist()))
    assert std_error == pytest.approx(means.std(), rel=0.05)
    _, as_rows = mean_and_std_error(scores, span=None)
    assert std_error > 1.5 * as_rows


@pytest.mark.parametrize("groups", [range(73), [5] * 73])
def test_groups_of_one_row_and_one_group_of_all_change_no_bit(groups: range | list[int]) -> None:
    challenger, baseline = (np.round(np.abs(scores) % 1) for scores in drawn(UNEVEN))
    examples = Examples(groups=groups)
    grouped = paired_difference(challenger, baseline, span=1.0, examples=examples)
    assert grouped == paired_difference(challenger, baseline, span=1.0)
    assert mean_and_std_error(challenger, examples=examples) == mean_and_std_error(challenger)


def test_equal_scores_in_groups_get_pseudo_rows_as_large_as_a_row() -> None:
    """Two halves of a row each way: a sum of squares of 1 over all rows, of 1 / 20**2 in means of 20 rows."""
    same = np.ones((1, 400))
    examples = Examples(groups=np.repeat(np.arange(20), 20).tolist())
    difference = paired_difference(same, same, span=1.0, examples=examples)
    assert difference.std_error == pytest.approx(math.sqrt(1 / 20**2 / 19 / 20 + 1 / 399 / SEED_ROWS))


@pytest.mark.parametrize("sizes", [[15] * 20, [100] + [10] * 20, [1] * 60 + [12] * 20])
def test_equal_plans_on_rows_in_groups_are_called_better_in_2_and_a_half_percent(sizes: list[int]) -> None:
    """0.3 is the correlation within groups; counted as independent, the rows prove far too much."""
    groups, n_runs, rng = np.repeat(np.arange(len(sizes)), sizes), 1500, np.random.default_rng(5)
    examples, zero = Examples(groups=groups.tolist()), np.zeros((1, len(groups)))
    counted = {"groups": 0, "rows": 0}
    for _ in range(n_runs):
        rows = math.sqrt(0.3) * rng.normal(size=len(sizes))[groups] + math.sqrt(0.7) * rng.normal(
            size=zero.shape
        )
        table = rows + rng.normal() / math.sqrt(SEED_ROWS)
        counted["groups"] += paired_difference(table, zero, span=None, examples=examples).low > 0
        counted["rows"] += paired_difference(table, zero, span=None).low > 0
    assert counted["groups"] / n_runs <= 0.025 + 3 * math.sqrt(0.025 * 0.975 / n_runs)
    assert counted["rows"] / n_runs > 0.05
