"""The seeds' variance of a difference, pooled over plans: closed forms, and false claims of alike plans."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from autopeft.evidence import look, paired_interval
from autopeft.evidence.variance import Floats

N = 40


def tables(means: list[list[float]]) -> list[Floats]:
    """Scores (S, N) for each plan; all examples of a seed have its mean, so that examples add no noise."""
    return [np.repeat(np.array(rows)[:, None], N, axis=1) for rows in means]


def half_of(means: list[list[float]]) -> float:
    pool = tables(means)
    interval = paired_interval(pool[0], pool[1], span=None, pool=pool)
    return (interval.high - interval.low) / 2


def test_two_seeds_of_three_plans_have_three_degrees_of_freedom() -> None:
    means = [[0.0, 0.2], [0.1, 0.3], [0.0, 0.4]]
    # Variances of the means: 0.02, 0.02, 0.08; the difference of the first two does not vary at all.
    variance = 2 * (0.02 + 0.02 + 0.08) / 3
    expected = float(stats.t.isf(0.025, 3)) * math.sqrt(variance / 2)
    assert half_of(means) == pytest.approx(expected, rel=1e-3)


def test_compared_plans_that_are_noisier_than_the_others_keep_their_variance() -> None:
    means = [[0.0, 0.4], [0.1, 0.5], [0.2, 0.2]]
    expected = float(stats.t.isf(0.025, 3)) * math.sqrt((0.08 + 0.08) / 2)
    assert half_of(means) == pytest.approx(expected, rel=1e-3)


def test_a_difference_that_varies_more_than_its_plans_do_keeps_its_variance() -> None:
    means = [[0.0, 0.4], [0.4, 0.0]]  # opposite: the difference is -0.4 and 0.4, of variance 0.32
    expected = float(stats.t.isf(0.025, 2)) * math.sqrt(0.32 / 2)
    assert half_of(means) == pytest.approx(expected, rel=1e-3)


def test_two_seeds_prove_a_gain_of_six_seed_deviations_only_where_seeds_are_pooled() -> None:
    means = [[0.860, 0.864], [0.801, 0.799], [0.850, 0.853]]
    pool = tables(means)
    assert paired_interval(pool[0], pool[1], level=0.95).low < 0.01
    seen = look(pool[0], pool[1], planned_seeds=2, margin=0.01, span=None, others=pool[2:])
    assert seen.label == "better" and seen.interval is not None
    assert 0.04 < seen.interval.low < 0.0605 < seen.interval.high


@pytest.mark.parametrize("sd", [1.0, 2.0])
def test_alike_plans_are_seldom_called_better(sd: float) -> None:
    """The best plan's seeds scatter as the others' do, or twice as much; only seeds vary."""
    rng, n_runs, n_wrong = np.random.default_rng(0), 1500, 0
    for _ in range(n_runs):
        means = rng.normal(size=(3, 2)) * np.array([sd, 1.0, 1.0])[:, None]
        pool = tables(means.tolist())
        n_wrong += look(*pool[:2], planned_seeds=2, margin=0.01, span=None, others=pool[2:]).label == "better"
    assert n_wrong / n_runs <= 0.025 + 2 * math.sqrt(0.025 * 0.975 / n_runs)
