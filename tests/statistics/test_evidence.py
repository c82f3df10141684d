"""The paired interval: closed forms, exact tests, simulation, properties; refusals."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from autopeft.errors import SpecError
from autopeft.statistics import (
    SEED_ROWS,
    Difference,
    Examples,
    least_difference,
    mean_and_std_error,
    paired_difference,
)

Floats = npt.NDArray[np.float64]


def widened(n_rows: int) -> float:
    """The factor by which another seed widens the interval of one run."""
    return math.sqrt(1 + n_rows / SEED_ROWS)


def ends(difference: Difference) -> tuple[float, float]:
    return difference.low, difference.high


def binary_plans(n_plans: int, n_seeds: int, n_rows: int, *, by_seed: float, seed: int) -> Floats:
    """0/1 scores (plans, S, N) of equal plans, whose logits move by `by_seed` with the seed of each."""
    draw = np.random.default_rng(seed).standard_normal
    hardness = 2.0 * draw(n_rows) + 0.7 * draw((n_plans, 1, n_rows))
    runs = by_seed * draw((n_plans, n_seeds, 1)) + draw((n_plans, n_seeds, n_rows))
    return np.asarray(hardness + runs + 2.0 > 0, dtype=np.float64)


# Closed forms.


def test_one_seed_of_losses_gives_the_widened_paired_t_over_rows() -> None:
    rng = np.random.default_rng(0)
    challenger, baseline = rng.normal(size=(1, 40)), rng.normal(size=(1, 40))
    difference = paired_difference(challenger, baseline, span=None)
    expected = stats.ttest_rel(challenger[0], baseline[0]).confidence_interval(0.95)
    mean = (challenger - baseline).mean()
    assert ends(difference) == pytest.approx(
        [mean + widened(40) * (end - mean) for end in expected], rel=1e-9
    )
    assert difference.std_error == pytest.approx(widened(40) * stats.sem((challenger - baseline)[0]))
    assert (difference.n_examples, difference.n_seeds) == (40, 1)


def test_scores_of_0_and_1_give_the_adjusted_wald_variance() -> None:
    # 100 rows: 7 won, 3 lost. Half a row more in each cell of the 2 x 2 table, variance about the plain mean
    # 0.04: (7.5 * 0.96**2 + 3.5 * 1.04**2 + 91 * 0.04**2) / (100 * 99).
    challenger, baseline = np.repeat([1, 0, 1], [7, 3, 90]), np.repeat([0, 1, 1], [7, 3, 90])
    difference = paired_difference(challenger[None], baseline[None], span=1.0)
    by_rows = math.sqrt((7.5 * 0.96**2 + 3.5 * 1.04**2 + 91 * 0.04**2) / 9900)
    assert difference.mean == pytest.approx(0.04)
    assert difference.std_error == pytest.approx(widened(100) * by_rows)
    agresti_min = math.sqrt(11 - 4**2 / 102) / 102
    assert 1 <= by_rows / agresti_min < 1.03  # ours divides by less


def test_seeds_that_differ_by_far_give_the_standard_error_over_seeds() -> None:
    challenger, baseline = np.array([0.91, 0.55, 0.70]), np.array([0.90, 0.91, 0.92])
    wide = np.ones((1, 20_000))
    difference = paired_difference(challenger[:, None] * wide, baseline[:, None] * wide, span=1.0)
    assert difference.std_error == pytest.approx(stats.sem(challenger - baseline), rel=1e-4)
    assert difference.n_seeds == 3


@pytest.mark.parametrize("n_seeds", [1, 2, 5])
def test_equal_seeds_have_the_recorded_variance_between_seeds(n_seeds: int) -> None:
    losses = np.tile(np.random.default_rng(1).normal(size=60), (n_seeds, 1))
    difference = paired_difference(losses, np.zeros_like(losses), span=None)
    variance = losses[0].var(ddof=1) * (1 / 60 + 1 / SEED_ROWS / n_seeds)
    assert difference.std_error == pytest.approx(math.sqrt(variance))


def test_more_challengers_take_the_quantile_of_bonferroni() -> None:
    losses = np.random.default_rng(2).normal(size=(1, 30))
    for n_challengers in (1, 2, 3):
        difference = paired_difference(losses, 0 * losses, span=None, n_challengers=n_challengers)
        half = (difference.high - difference.low) / 2
        assert half / difference.std_error == pytest.approx(stats.t.ppf(1 - 0.025 / n_challengers, 29))


def test_one_plan_on_one_seed_has_the_error_over_rows_alone() -> None:
    losses = np.random.default_rng(1).normal(size=(1, 50))
    assert mean_and_std_error(losses, span=None) == pytest.approx((losses.mean(), stats.sem(losses[0])))


def test_one_plan_that_has_every_row_right_has_the_error_of_the_pseudo_rows() -> None:
    """Half a row at 0, twice: a sum of squares of 1."""
    assert mean_and_std_error(np.ones((1, 40))) == pytest.approx((1.0, 1 / math.sqrt(40 * 39)))


def test_variances_of_seeds_and_rows_of_one_plan_add_up() -> None:
    # Additive table, no residual: Var = var(seeds) / S + var(rows) / N.
    seeds, rows = np.array([0.0, 2.0, 5.0]), np.array([1.0, 0.0, 4.0, -2.0])
    _, std_error = mean_and_std_error(seeds[:, None] + rows, span=None)
    assert std_error == pytest.approx(math.hypot(stats.sem(seeds), stats.sem(rows)))


def test_noise_of_single_scores_is_not_counted_twice() -> None:
    """A two-way analysis of variance by least squares."""
    rng = np.random.default_rng(3)
    table = np.array([[0.0], [3.0], [7.0]]) + 4 * rng.normal(size=5) + rng.normal(size=(3, 5))
    design = np.array([[*np.eye(3)[seed], *np.eye(5)[row]] for seed in range(3) for row in range(5)])
    residual = table.ravel() - design @ np.linalg.lstsq(design, table.ravel(), rcond=None)[0]
    of_seeds, of_rows = 5 * table.mean(axis=1).var(ddof=1), 3 * table.mean(axis=0).var(ddof=1)
    variance = (of_seeds + of_rows - (residual**2).sum() / (2 * 4)) / 15
    _, std_error = mean_and_std_error(table, span=None)
    assert std_error == pytest.approx(math.sqrt(variance))


@pytest.mark.parametrize("n_rows", [100, 500, 2000])
def test_least_difference_is_the_half_width_of_equal_plans_that_disagree(n_rows: int) -> None:
    n_apart = n_rows // 20  # each is right alone on so many rows
    challenger = np.repeat([1, 0, 1], [n_apart, n_apart, n_rows - 2 * n_apart])[None]
    baseline = np.repeat([0, 1, 1], [n_apart, n_apart, n_rows - 2 * n_apart])[None]
    difference = paired_difference(challenger, baseline, span=1.0)
    assert least_difference(n_rows, 0.1) == pytest.approx(difference.high, rel=0.08 if n_rows < 500 else 0.02)


# Exact tests.


def is_better(n_won: int, n_apart: int, n_rows: int) -> bool:
    """Whether a classifier that alone has `n_won` rows of `n_apart` right is called better."""
    challenger = np.repeat([1.0, 0.0, 1.0], [n_won, n_apart - n_won, n_rows - n_apart])
    baseline = np.repeat([0.0, 1.0, 1.0], [n_won, n_apart - n_won, n_rows - n_apart])
    return paired_difference(challenger[None], baseline[None], span=1.0).low > 0


@pytest.mark.parametrize("n_rows", [100, 400])
def test_what_is_called_better_is_significant_by_the_exact_test_of_mcnemar(n_rows: int) -> None:
    """All 2 x 2 tables with up to 40 rows that one classifier alone has right; one-sided 2.5 %."""
    tables = [(n_won, n_apart) for n_apart in range(41) for n_won in range(n_apart + 1)]
    better = [table for table in tables if is_better(*table, n_rows)]
    assert len(better) > 100
    assert max(stats.binom.sf(n_won - 1, n_apart, 0.5) for n_won, n_apart in better) <= 0.025


@pytest.mark.parametrize("n_rows", [20, 60])
def test_equally_good_classifiers_are_called_better_in_2_and_a_half_percent(n_rows: int) -> None:
    """The exact chance, whatever the share of rows is on which one of them alone is right."""
    tables = [(n_won, n_apart) for n_apart in range(n_rows + 1) for n_won in range(n_apart + 1)]
    better = np.array([table for table in tables if is_better(*table, n_rows)])
    for share in np.linspace(0.01, 1, 100):
        chances = stats.binom.pmf(better[:, 1], n_rows, share) * stats.binom.pmf(
            better[:, 0], better[:, 1], 0.5
        )
        assert chances.sum() <= 0.025


# Simulation.


@pytest.mark.parametrize("n_seeds", [1, 2, 3])
@pytest.mark.parametrize("n_rows", [100, 400])
def test_coverage_is_near_its_level_where_seeds_move_plans_as_recorded(n_seeds: int, n_rows: int) -> None:
    """Normal scores of residual 1; the truth is over all seeds and rows, and both are drawn again."""
    rng, covered, n_runs = np.random.default_rng([n_seeds, n_rows]), 0, 2000
    for _ in range(n_runs):
        rows = 0.5 * rng.standard_normal(n_rows) + math.sqrt(0.75) * rng.standard_normal((n_seeds, n_rows))
        table = rows + rng.standard_normal((n_seeds, 1)) / math.sqrt(SEED_ROWS)
        difference = paired_difference(0.3 + table, 0 * table, span=None)
        covered += difference.low <= 0.3 <= difference.high
    assert 0.93 <= covered / n_runs <= 0.98


@pytest.mark.parametrize(("n_challengers", "n_seeds"), [(1, 1), (2, 1), (3, 1), (1, 2), (1, 3)])
def test_equal_plans_are_called_better_in_2_and_a_half_percent(n_challengers: int, n_seeds: int) -> None:
    n_runs, n_better = 1500, 0
    for run in range(n_runs):
        plans = binary_plans(1 + n_challengers, n_seeds, 300, by_seed=0.1, seed=run)
        best = max(plans[1:], key=np.mean)
        n_better += paired_difference(best, plans[0], span=1.0, n_challengers=n_challengers).low > 0
    assert n_better / n_runs <= 0.025 + 2 * math.sqrt(0.025 * 0.975 / n_runs)


def test_seeds_that_move_a_plan_by_more_than_recorded_widen_the_interval() -> None:
    """Seeds four times as strong as recorded: three measured seeds are wrong less often than one."""
    rng, wrong = np.random.default_rng(5), {}
    for n_seeds in (1, 3):
        tables = rng.standard_normal((1500, n_seeds, 400)) + 0.1 * rng.standard_normal((1500, n_seeds, 1))
        lows = [paired_difference(table, 0 * table, span=None).low for table in tables]
        wrong[n_seeds] = np.mean([low > 0 for low in lows])
    assert wrong[3] < 0.6 * wrong[1]


# Properties.


@st.composite
def score_pairs(draw: st.DrawFn, elements: st.SearchStrategy[float]) -> tuple[Floats, Floats]:
    shape = draw(st.tuples(st.integers(1, 4), st.integers(2, 6)))
    challenger, baseline = (draw(arrays(np.float64, shape, elements=elements)) for _ in range(2))
    return challenger, baseline


@given(score_pairs(st.sampled_from([0.0, 1.0])))
def test_no_interval_of_bounded_scores_is_narrower_than_one_row(pair: tuple[Floats, Floats]) -> None:
    difference = paired_difference(*pair, span=1.0)
    assert -1 <= difference.low <= difference.mean <= difference.high <= 1
    assert difference.high - difference.low >= 1 / pair[0].shape[1]
    assert difference.std_error >= 1 / pair[0].shape[1]


@given(score_pairs(st.floats(-1e6, 1e6)))
def test_no_interval_of_losses_has_zero_width(pair: tuple[Floats, Floats]) -> None:
    difference = paired_difference(*pair, span=None)
    assert difference.low < difference.mean < difference.high
    assert difference.std_error > 0


@given(score_pairs(st.floats(0, 1)))
def test_swapping_the_plans_mirrors_the_interval(pair: tuple[Floats, Floats]) -> None:
    there, back = (paired_difference(*plans, span=1.0) for plans in (pair, pair[::-1]))
    assert ends(there) == pytest.approx((-back.high, -back.low), abs=1e-12)
    assert there.std_error == pytest.approx(back.std_error)


@given(score_pairs(st.floats(-10, 10)))
def test_seeds_never_narrow_the_interval_below_the_recorded_variance(pair: tuple[Floats, Floats]) -> None:
    table = pair[0] - pair[1]
    difference = paired_difference(*pair, span=None)
    recorded = table.var(axis=1, ddof=1).mean() / SEED_ROWS / len(table)
    assert difference.std_error**2 >= recorded * (1 - 1e-9)


def test_equal_pseudo_values_have_a_step_in_place_of_a_span() -> None:
    same = np.ones((1, 50))
    with_step = paired_difference(same, same, span=None, examples=Examples(step=1.0))
    assert with_step == paired_difference(same, same, span=1.0)


def test_equal_losses_are_known_to_one_rounding_of_float32() -> None:
    losses = np.linspace(20, 50, 30).reshape(3, 10)
    for pair in ((losses, losses), (losses, losses - 30), (losses - 30, losses)):
        assert paired_difference(*pair, span=None).std_error == pytest.approx(50 * 2.0**-23)


def test_one_number_per_run_gives_the_interval_of_a_paired_t_test_over_the_seeds() -> None:
    challenger, baseline = np.array([[0.84], [0.86], [0.83]]), np.array([[0.81], [0.82], [0.82]])
    difference = paired_difference(challenger, baseline, span=1.0)
    expected = stats.ttest_rel(challenger[:, 0], baseline[:, 0]).confidence_interval(0.95)
    assert (difference.low, difference.high) == pytest.approx((expected.low, expected.high))
    assert (difference.n_examples, difference.n_seeds) == (1, 3)


def test_one_row_allows_no_interval() -> None:
    single = np.ones((1, 1))
    with pytest.raises(SpecError, match="2 examples"):
        paired_difference(single, single, span=1.0)
