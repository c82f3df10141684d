"""One interval, its label and its verdict: closed forms, simulation, properties, sentences."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from toys.metrics import ACCURACY, ERROR_RATE, LOSS, PEARSON

from autopeft.errors import SpecError
from autopeft.evidence import (
    divergence_chance,
    look,
    mean_and_std_error,
    paired_interval,
    plans_within_margin,
    rank_correlation,
    sequential_verdict,
    verdict_on_same_plan,
    verdict_without_confirmation,
)
from autopeft.evidence.variance import Floats
from autopeft.records import MetricFacts


def normal_tables(n_tables: int, n_seeds: int, *, by_seed: float, by_example: float, seed: int) -> Floats:
    """Differences of mean 0 with residual 1 and the two given standard deviations; (tables, S, N)."""
    draw = np.random.default_rng(seed).standard_normal
    rows, columns = draw((n_tables, n_seeds, 1)), draw((n_tables, 1, 300))
    return np.asarray(by_seed * rows + by_example * columns + draw((n_tables, n_seeds, 300)))


def accuracies(n_seeds: int, n_examples: int, *, lift: float, seed: int) -> tuple[Floats, Floats]:
    """0/1 scores of two plans whose logits differ by `lift`, by seed, example and their product."""
    draw = np.random.default_rng(seed).standard_normal
    hardness = 2.0 * draw((1, n_examples)) + 2.0
    first, second = (
        hardness + 0.2 * draw((n_seeds, 1)) + 0.7 * draw((1, n_examples)) + draw((n_seeds, n_examples))
        for _ in range(2)
    )
    return (first + lift > 0).astype(float), (second > 0).astype(float)


# Closed forms.


def test_equal_seeds_give_the_paired_t_over_examples() -> None:
    rng = np.random.default_rng(0)
    best, baseline = rng.normal(size=40), rng.normal(size=40)
    interval = paired_interval(np.tile(best, (3, 1)), np.tile(baseline, (3, 1)), span=None)
    expected = stats.ttest_rel(best, baseline).confidence_interval(0.95)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), rel=1e-9)


def test_equal_seeds_of_0_and_1_give_the_adjusted_wald_variance() -> None:
    # 100 examples: 7 won, 3 lost. Half an example more in each cell of the 2 x 2 table, variance
    # about the plain mean 0.04: (7.5 * 0.96**2 + 3.5 * 1.04**2 + 91 * 0.04**2) / (100 * 99).
    best, baseline = np.repeat([1, 0, 1], [7, 3, 90]), np.repeat([0, 1, 1], [7, 3, 90])
    interval = paired_interval(np.tile(best, (2, 1)), np.tile(baseline, (2, 1)))
    variance = (7.5 * 0.96**2 + 3.5 * 1.04**2 + 91 * 0.04**2) / 9900
    assert interval.mean == pytest.approx(0.04)
    assert interval.std_error == pytest.approx(math.sqrt(variance))
    assert interval.high - interval.mean == pytest.approx(stats.t.ppf(0.975, 99) * math.sqrt(variance))
    agresti_min = math.sqrt(11 - 4**2 / 102) / 102
    assert 1 <= interval.std_error / agresti_min < 1.03  # ours divides by less


def test_only_seeds_varying_gives_the_paired_t_over_seeds() -> None:
    best, baseline = np.array([0.91, 0.95, 0.90]), np.array([0.90, 0.91, 0.92])
    wide = np.ones((1, 20_000))
    interval = paired_interval(best[:, None] * wide, baseline[:, None] * wide, level=0.9)
    expected = stats.ttest_rel(best, baseline).confidence_interval(0.9)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), rel=1e-4)


def test_one_seed_gives_the_error_over_examples() -> None:
    losses = np.random.default_rng(1).normal(size=(1, 50))
    mean, std_error = mean_and_std_error(losses, span=None)
    assert (mean, std_error) == pytest.approx((losses.mean(), stats.sem(losses[0])))


def test_variances_of_seeds_and_examples_add_up_in_the_standard_error() -> None:
    # Additive table, no residual: Var = var(rows) / S + var(columns) / N.
    rows, columns = np.array([0.0, 2.0, 5.0]), np.array([1.0, 0.0, 4.0, -2.0])
    _, std_error = mean_and_std_error(rows[:, None] + columns, span=None)
    assert std_error == pytest.approx(math.sqrt(stats.sem(rows) ** 2 + stats.sem(columns) ** 2))


# Simulation.


@pytest.mark.parametrize("n_seeds", [3, 5])
@pytest.mark.parametrize(("by_seed", "by_example"), [(0.08, 0.8), (0.3, 0.5), (0.1, 1.5)])
def test_coverage_is_near_its_level(n_seeds: int, by_seed: float, by_example: float) -> None:
    tables = normal_tables(1000, n_seeds, by_seed=by_seed, by_example=by_example, seed=n_seeds)
    intervals = [paired_interval(table, np.zeros_like(table), span=None) for table in tables]
    covered = np.mean([interval.low < 0 < interval.high for interval in intervals])
    assert 0.925 <= covered <= 0.985


@pytest.mark.parametrize("n_seeds", [2, 3, 5])
def test_two_alike_plans_are_seldom_called_better(n_seeds: int) -> None:
    pairs = [accuracies(n_seeds, 300, lift=0.0, seed=seed) for seed in range(1000)]
    better = np.mean([paired_interval(best, baseline).low > 0 for best, baseline in pairs])
    assert better <= 0.035


def test_a_clear_lift_is_found_on_3_seeds() -> None:
    pairs = [accuracies(3, 500, lift=2.0, seed=seed) for seed in range(50)]
    labels = [look(*pair, planned_seeds=3, margin=0.01).label for pair in pairs]
    assert labels.count("better") >= 45


# Properties.


@st.composite
def score_pairs(draw: st.DrawFn, elements: st.SearchStrategy[float]) -> tuple[Floats, Floats]:
    shape = draw(st.tuples(st.integers(2, 4), st.integers(2, 6)))
    best, baseline = (draw(arrays(np.float64, shape, elements=elements)) for _ in range(2))
    return best, baseline


@given(score_pairs(st.sampled_from([0.0, 1.0])))
def test_no_interval_of_bounded_scores_is_narrower_than_one_example(pair: tuple[Floats, Floats]) -> None:
    interval = paired_interval(*pair)
    assert -1 <= interval.low <= interval.mean <= interval.high <= 1
    assert interval.high - interval.low >= 1 / pair[0].shape[1]
    assert interval.std_error >= 1 / pair[0].shape[1]


@given(score_pairs(st.floats(-1e6, 1e6)))
def test_no_interval_of_losses_has_zero_width(pair: tuple[Floats, Floats]) -> None:
    interval = paired_interval(*pair, span=None)
    assert interval.low < interval.mean < interval.high
    assert interval.std_error > 0


@given(score_pairs(st.floats(0, 1)))
def test_swapping_the_plans_mirrors_the_interval(pair: tuple[Floats, Floats]) -> None:
    best, baseline = pair
    there, back = paired_interval(best, baseline), paired_interval(baseline, best)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low), abs=1e-12)
    assert there.std_error == pytest.approx(back.std_error)


def test_equal_losses_are_known_to_one_rounding_of_float32() -> None:
    losses = np.full((3, 10), 50.0)
    assert paired_interval(losses, losses, span=None).std_error == pytest.approx(50 * 2.0**-23)


# Labels.


def pair_of(mean: float, spread: float) -> tuple[Floats, Floats]:
    """Three equal seeds of 1000 unbounded differences with standard error `spread` and a mean."""
    wave = np.tile([1.0, -1.0], 500) * spread * math.sqrt(999)
    return np.tile(mean + wave, (3, 1)), np.zeros((3, 1000))


@pytest.mark.parametrize(
    ("mean", "spread", "label"),
    [
        (0.030, 0.010, "better"),
        (0.004, 0.001, "better"),  # also within the margin: better wins
        (0.000, 0.004, "equivalent"),
        (-0.003, 0.002, "equivalent"),
        (-0.004, 0.001, "worse"),  # also within the margin: worse wins, as swapped
        (-0.030, 0.010, "worse"),
        (0.000, 0.010, "inconclusive"),
        (0.009, 0.006, "inconclusive"),
    ],
)
def test_label_follows_from_mean_and_error(mean: float, spread: float, label: str) -> None:
    swapped = {"better": "worse", "worse": "better"}.get(label, label)
    best, baseline = pair_of(mean, spread)
    assert look(best, baseline, planned_seeds=3, margin=0.01, span=None).label == label
    assert look(baseline, best, planned_seeds=3, margin=0.01, span=None).label == swapped


@pytest.mark.parametrize(("mean", "proven"), [(0.05, True), (0.0, True), (-0.007, False), (-0.02, False)])
def test_a_plan_is_within_the_margin_by_a_one_sided_test(mean: float, proven: bool) -> None:
    # One-sided 5 %: the bound lies 1.646 * 0.004 = 0.0066 below the mean.
    tables = dict(zip(("small", "best"), pair_of(mean, 0.004), strict=True))
    [standing] = plans_within_margin(tables, best="best", margin=0.01, span=None)
    assert standing.is_within is proven


# Verdicts.


def test_better_verdict_speaks_in_points() -> None:
    best, baseline = np.ones((3, 100)), np.tile(np.repeat([0.0, 1.0], [10, 90]), (3, 1))
    seen = look(best, baseline, planned_seeds=3, margin=0.01)
    verdict = sequential_verdict(seen, metric=ACCURACY, fidelity="full", smallest_equivalent="proven")
    # t(99) = 1.9842; (10.5 * 0.9**2 + 0.5 * 1.1**2 + 91 * 0.1**2) / 9900 is 0.03181 squared.
    assert verdict.sentence == (
        "The best plan is better than the baseline by 10.0 points of accuracy "
        "(95 % interval 3.7 to 16.3), confirmed at full length on 3 seeds."
    )
    assert (verdict.label, verdict.fidelity, verdict.smallest_equivalent) == ("better", "full", "proven")
    assert verdict.mean_difference == pytest.approx(0.1)
    assert verdict.interval_95 == pytest.approx((0.0369, 0.1631), abs=1e-4)


def sentence_on(metric: MetricFacts, mean: float, spread: float) -> str:
    """The sentence of a verdict on three equal seeds of half length."""
    seen = look(*pair_of(mean, spread), planned_seeds=3, margin=0.01, span=None)
    return sequential_verdict(seen, metric=metric, fidelity="half", smallest_equivalent="unproven").sentence


@pytest.mark.parametrize(
    ("metric", "better", "unclear"),
    [
        (ACCURACY, "baseline by 5.0 points of accuracy (95", ": +1.0 points of accuracy (95"),
        (PEARSON, "baseline by 0.050 in pearson (95", ": +0.010 in pearson (95"),
        (LOSS, "baseline: its loss is lower by 0.050 (95", ": its loss is lower by 0.010 (95"),
        (ERROR_RATE, "baseline: its error-rate is lower by 5.0 points (95", " lower by 1.0 points (95"),
    ],
)
def test_unit_and_direction_are_those_of_the_metric(metric: MetricFacts, better: str, unclear: str) -> None:
    is_better, is_unclear = sentence_on(metric, 0.05, 0.01), sentence_on(metric, 0.01, 0.01)
    assert better in is_better and unclear in is_unclear
    for sentence in (is_better, is_unclear):
        assert ("points" in sentence) == metric.is_share
    assert f"margin of {'1.0 points' if metric.is_share else '0.010'} is" in is_unclear


def test_same_plan_and_no_confirmation_have_no_interval() -> None:
    same = verdict_on_same_plan(margin=0.01, fidelity="full", smallest_equivalent="proven")
    none = verdict_without_confirmation(margin=0.01)
    assert (same.label, same.mean_difference, same.interval_95) == ("default kept", 0.0, None)
    assert (none.label, none.mean_difference, none.interval_95) == ("none", None, None)


# The chance of divergence, rank correlation, and refusals.


def test_chance_of_divergence_is_the_exact_binomial_one() -> None:
    for n_diverged, n_seeds in [(0, 3), (1, 4), (2, 10), (5, 5)]:
        exact = stats.binomtest(n_diverged, n_seeds).proportion_ci(0.95, method="exact")
        assert divergence_chance(n_diverged, n_seeds) == pytest.approx((exact.low, exact.high))


def test_rank_correlation_is_scipys_on_the_finite_pairs() -> None:
    rng = np.random.default_rng(2)
    a = rng.normal(size=20)
    b = a + rng.normal(size=20)
    expected = stats.spearmanr(a, b).statistic
    rho = rank_correlation([*a, math.nan, 5.0, None], [*b, 0.0, math.inf, 1.0])
    assert rho == pytest.approx(expected)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ([], []),
        ([1, 2], [1, 2]),
        ([1, 1, 1], [1, 2, 3]),
        ([1, 2, 3], [4, 4, 4]),
        ([1, 2, math.nan], [1, 2, 3]),
    ],
)
def test_rank_correlation_is_none_where_there_is_no_order(a: list[float], b: list[float]) -> None:
    assert rank_correlation(a, b) is None


def test_scores_and_margins_that_allow_no_interval_are_refused() -> None:
    single, many = np.ones((2, 1)), np.ones((2, 9))
    with pytest.raises(SpecError, match="needs at least 2 examples and the split for the verdict has 1;"):
        paired_interval(single, single)
    with pytest.raises(SpecError, match="range of width 1, but two are 100 apart"):
        paired_interval(100 * many, 0 * many)
    with pytest.raises(SpecError, match="margin is 0 and must be above 0"):
        plans_within_margin({"small": many, "best": many}, best="best", margin=0.0)
