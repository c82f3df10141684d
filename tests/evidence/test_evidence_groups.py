"""Examples in groups: closed forms, jackknife by brute force, bootstrap, and rates of false claims."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from autopeft.evidence import Examples, look, mean_and_std_error, paired_interval, plans_within_margin
from autopeft.evidence.bounds import BETTER, EQUIVALENT, WORSE, Design
from autopeft.evidence.sequential import find_stops
from autopeft.evidence.variance import Floats, moments

Groups = npt.NDArray[np.int64]
UNEVEN: Groups = np.repeat(np.arange(12), [1, 1, 2, 2, 3, 4, 5, 6, 8, 9, 12, 20])


def drawn(groups: Groups, *, n_seeds: int = 1, within: float = 0.5, seed: int = 0) -> tuple[Floats, Floats]:
    """Scores (S, N) of two plans, of variance 1 and a correlation `within` groups; alike on all seeds."""
    rng = np.random.default_rng(seed)
    first, second = (
        math.sqrt(within) * rng.normal(size=groups.max() + 1)[groups]
        + math.sqrt(1 - within) * rng.normal(size=len(groups))
        for _ in range(2)
    )
    return np.tile(first, (n_seeds, 1)), np.tile(second, (n_seeds, 1))


def test_groups_of_equal_size_give_the_paired_t_over_their_means() -> None:
    groups = np.arange(60) % 6  # neighbours are of different groups
    best, baseline = drawn(groups, n_seeds=3)
    interval = paired_interval(best, baseline, span=None, examples=Examples(groups=groups.tolist()))
    by_group = [[scores[0][groups == g].mean() for g in range(6)] for scores in (best, baseline)]
    expected = stats.ttest_rel(*by_group).confidence_interval(0.95)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), rel=1e-9)


def test_groups_of_any_size_give_the_interval_of_the_jackknife_that_leaves_out_groups() -> None:
    best, baseline = drawn(UNEVEN, n_seeds=2)
    difference, n_groups = (best - baseline)[0], 12
    left = np.array([np.delete(difference, np.flatnonzero(g == UNEVEN)).mean() for g in range(n_groups)])
    std_error = math.sqrt((n_groups - 1) / n_groups * ((left - left.mean()) ** 2).sum())
    freedom = 73**2 / sum(size**2 for size in np.bincount(UNEVEN)) - 1
    half = float(stats.t.isf(0.025, freedom)) * std_error
    shuffled = np.random.default_rng(1).permutation(73)
    interval = paired_interval(
        best[:, shuffled],
        baseline[:, shuffled],
        span=None,
        examples=Examples(groups=UNEVEN[shuffled].tolist()),
    )
    assert interval.mean == pytest.approx(difference.mean())
    assert interval.std_error == pytest.approx(std_error)
    assert (interval.low, interval.high) == pytest.approx((interval.mean - half, interval.mean + half))


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
def test_groups_of_one_example_and_one_group_of_all_change_no_bit(groups: range | list[int]) -> None:
    best, baseline = (np.round(np.abs(scores) % 1) for scores in drawn(UNEVEN, n_seeds=2))
    examples = Examples(groups=groups)
    assert paired_interval(best, baseline, examples=examples) == paired_interval(best, baseline)
    assert mean_and_std_error(best, examples=examples) == mean_and_std_error(best)
    how = {"planned_seeds": 2, "margin": 0.01}
    assert look(best, baseline, examples=examples, **how) == look(best, baseline, **how)


def test_equal_scores_in_groups_get_pseudo_examples_as_large_as_a_row() -> None:
    """Two halves of a row each way: a sum of squares of 1 over all rows, of 1 / 20**2 in means of 20 rows."""
    same = np.ones((2, 400))
    examples = Examples(groups=np.repeat(np.arange(20), 20).tolist())
    interval = paired_interval(same, same, examples=examples)
    assert interval.std_error == pytest.approx(math.sqrt(1 / 20**2 / 19 / 20))
    # The test of a margin: as variable as rows of which one in a hundred differs, with t of 19 degrees.
    half = float(stats.t.isf(0.05, 19)) * math.sqrt(0.01 * 0.99 / 400)
    at_margin = paired_interval(same, same, level=0.9, examples=examples, margin=0.01)
    assert (at_margin.low, at_margin.high) == pytest.approx((-half, half))


def test_a_test_of_a_margin_takes_differences_to_be_as_alike_in_groups_as_the_scores_are() -> None:
    """Rows that are equal within 20 groups of 20 have a mean as variable as that of 20 rows."""
    scores = np.tile(np.repeat(np.arange(20) % 2, 20), (2, 1))
    examples = Examples(groups=np.repeat(np.arange(20), 20).tolist())
    effect = (np.var([0, 1] * 10, ddof=1) / 20) / (np.var(scores[0], ddof=1) / 400)
    half = float(stats.t.isf(0.05, 19)) * math.sqrt(effect * 0.01 * 0.99 / 400)
    # The seeds do not vary at all, pooled or not.
    interval = paired_interval(
        scores, scores, level=0.9, examples=examples, margin=0.01, pool=[scores, scores]
    )
    assert (interval.low, interval.high) == pytest.approx((-half, half))


def test_plans_a_margin_apart_on_few_groups_are_seldom_called_equivalent() -> None:
    """One plan fails on rows that the other has right, with the correlation within groups of all failures."""
    rng, groups, margin, within = np.random.default_rng(7), np.repeat(np.arange(50), 20), 0.01, 1 / 0.3 - 1

    def failures(share: float) -> npt.NDArray[np.bool_]:
        chances = rng.beta(share * within, (1 - share) * within, size=(600, 50))[:, groups]
        return np.asarray(rng.random(chances.shape) < chances)

    both = failures(0.1)
    wrong = both | failures(margin / 0.9), both
    best, baseline = (np.repeat(1.0 - each[:, None], 2, axis=1) for each in wrong)

    def share(counted: list[int]) -> float:
        plans = [moments(table, counted) for table in (best, baseline)]
        design = Design(planned_seeds=2, margin=margin)
        seen = find_stops(moments(best - baseline, counted), design, plans=plans)
        return float((seen.code == EQUIVALENT).mean())

    assert share(groups.tolist()) <= 0.05 < 0.2 < share([])


def test_every_claim_counts_groups() -> None:
    """Twelve groups, each with one score: whatever is said of 600 rows is what is said of 12 examples."""
    rng = np.random.default_rng(6)
    few = {name: rng.normal(size=(1, 12)) + 0.01 * rng.normal(size=(3, 12)) for name in "abc"}
    rows = {name: np.repeat(table, 50, axis=1) for name, table in few.items()}
    examples = Examples(groups=np.repeat(np.arange(12), 50).tolist())
    how = {"planned_seeds": 3, "margin": 0.3, "span": None}
    by_group = look(rows["a"], rows["b"], examples=examples, others=[rows["c"]], **how)
    by_few, by_row = (look(tables["a"], tables["b"], others=[tables["c"]], **how) for tables in (few, rows))
    assert (by_few.label, by_row.label) == ("inconclusive", "better") and by_group.label == by_few.label
    assert by_group.interval_90 == pytest.approx(by_few.interval_90)
    close = {"best": "a", "margin": 1.0, "span": None}
    of_few, of_rows = plans_within_margin(few, **close), plans_within_margin(rows, examples=examples, **close)
    assert [each.bound for each in of_rows] == pytest.approx([each.bound for each in of_few])


@pytest.mark.parametrize("sizes", [[15] * 20, [100] + [10] * 20, [1] * 60 + [12] * 20])
def test_alike_plans_on_rows_in_groups_are_called_better_in_2_and_a_half_percent(sizes: list[int]) -> None:
    """0.3 is the correlation within groups; counted as independent, the rows prove far too much."""
    groups, n_runs, n_seeds = np.repeat(np.arange(len(sizes)), sizes), 1500, 3
    rng = np.random.default_rng(5)
    shared = math.sqrt(0.3) * rng.normal(size=(n_runs, 1, len(sizes)))[..., groups]
    examples = shared + math.sqrt(0.7) * rng.normal(size=(n_runs, 1, len(groups)))
    tables = examples + 0.02 * rng.normal(size=(n_runs, n_seeds, 1)) + np.zeros((n_seeds, len(groups)))
    design = Design(planned_seeds=n_seeds, margin=0.01, span=None)
    by_group = find_stops(moments(tables, groups.tolist()), design)
    by_row = find_stops(moments(tables), design)
    error = 3 * math.sqrt(0.025 * 0.975 / n_runs)
    for code in (BETTER, WORSE):
        assert (by_group.code == code).mean() <= 0.025 + error < (by_row.code == code).mean()
    assert ((by_group.low <= 0) & (by_group.high >= 0)).mean() >= 0.95 - 3 * math.sqrt(0.05 * 0.95 / n_runs)
