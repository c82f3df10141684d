"""Several plans, metrics that are no means, diverged seeds, and what the search promised."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from autopeft.errors import SpecError
from autopeft.evidence import (
    Table,
    divergence_chance,
    equivalence_set,
    optimism,
    paired_interval,
    pseudo_values,
    with_diverged,
)

Index = npt.NDArray[np.int64]


# Pseudo-values.


def test_pseudo_values_of_a_mean_are_its_scores() -> None:
    scores = np.random.default_rng(0).normal(size=50)
    assert pseudo_values(lambda at: float(scores[at].mean()), 50) == pytest.approx(scores)


def test_pseudo_values_of_the_plugin_variance_have_the_closed_form() -> None:
    # Leaving out x changes the plug-in variance so that N / (N - 1) (x - mean)**2 is left; its mean is
    # the unbiased variance (Miller 1974).
    x = np.random.default_rng(1).normal(size=30)
    told = pseudo_values(lambda at: float(x[at].var()), 30)
    assert told == pytest.approx(30 / 29 * (x - x.mean()) ** 2)
    assert told.mean() == pytest.approx(x.var(ddof=1))


def test_pseudo_values_of_pearson_give_its_asymptotic_error() -> None:
    # (1 - r**2) / sqrt(N) for normal pairs.
    rng = np.random.default_rng(2)
    x = rng.normal(size=1500)
    y = 0.6 * x + 0.8 * rng.normal(size=1500)
    told = pseudo_values(lambda at: float(np.corrcoef(x[at], y[at])[0, 1]), 1500)
    assert told.mean() == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-3)
    assert stats.sem(told) == pytest.approx((1 - 0.6**2) / math.sqrt(1500), rel=0.1)


def test_pseudo_values_of_f1_over_pooled_counts_give_the_error_of_a_ratio() -> None:
    # F1 = sum(a) / sum(b) with a = 2 TP and b = 2 TP + FP + FN by example: the delta method's error.
    rng = np.random.default_rng(3)
    hits = rng.poisson(2.0, 800).astype(float)
    misses = rng.poisson(1.0, 800).astype(float)
    a, b = 2 * hits, 2 * hits + misses
    told = pseudo_values(lambda at: float(a[at].sum() / b[at].sum()), 800)
    ratio = a.sum() / b.sum()
    assert told.mean() == pytest.approx(ratio, abs=1e-4)
    assert stats.sem(told) == pytest.approx(stats.sem(a - ratio * b) / b.mean(), rel=0.01)


def pearson(guess: Table, target: Table) -> Table:
    return pseudo_values(lambda at: float(np.corrcoef(guess[at], target[at])[0, 1]), len(target))


def test_interval_of_pearson_holds_the_truth() -> None:
    rng, held = np.random.default_rng(4), []
    truth = 1 / math.sqrt(1.25) - 1 / math.sqrt(1.64)  # r = 1 / sqrt(1 + noise**2)
    for _ in range(60):
        target = rng.normal(size=60)
        guesses = [target + noise * rng.normal(size=(3, 60)) for noise in (0.5, 0.8)]
        rows = [[pearson(guess, target) for guess in some] for some in guesses]
        interval = paired_interval(*rows, span=None)
        held.append(interval.low < truth < interval.high)
    assert np.mean(held) >= 0.9


@pytest.mark.parametrize("constant", [True, False])
def test_a_metric_that_is_not_defined_without_an_example_is_refused(constant: bool) -> None:
    x = np.zeros(5)
    x[0] = 1.0
    metric = {
        True: lambda at: float(x[at].sum() / x[at].sum()) if x[at].sum() else math.nan,
        False: lambda at: float(at.mean()),
    }[constant]
    with pytest.raises(SpecError, match="not defined without some example" if constant else "at least 3"):
        pseudo_values(metric, 5 if constant else 2)


# Diverged seeds.


def test_a_diverged_seed_gets_the_lowest_score() -> None:
    assert with_diverged([[0.5, 1.0], None, []]) == [[0.5, 1.0], [0.0, 0.0], [0.0, 0.0]]
    assert with_diverged([[-0.5, -1.0], None, [-0.7, -0.2]], lowest=None)[1] == [-0.7, -1.0]


def test_chance_of_divergence_is_the_exact_binomial_one() -> None:
    for n_diverged, n_seeds in [(0, 3), (1, 4), (2, 10), (5, 5)]:
        exact = stats.binomtest(n_diverged, n_seeds).proportion_ci(0.95, method="exact")
        assert divergence_chance(n_diverged, n_seeds) == pytest.approx((exact.low, exact.high))


# Several plans.


def plans(*losses: float, n_seeds: int = 4, spread: float = 0.02, seed: int = 0) -> dict[str, Table]:
    """Unbounded scores of plans a, b, ... that lose this much, on 400 examples common to all."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(1, 400))
    noise = spread * rng.normal(size=(len(losses), n_seeds, 400))
    return {
        name: common - loss + noise[i] for i, (name, loss) in enumerate(zip("abcdef", losses, strict=False))
    }


PARAMS = {"a": 1000, "b": 500, "c": 100, "d": 10}


@pytest.mark.parametrize("best", [None, "a"])
def test_the_smallest_plan_within_the_margin_is_found(best: str | None) -> None:
    found = equivalence_set(plans(0.0, 0.001, 0.002, 0.5), PARAMS, margin=0.02, span=None, best=best)
    assert [s.name for s in found.standings] == ["d", "c", "b", "a"]
    assert [s.is_within for s in found.standings] == [False, True, True, True]
    assert (found.smallest, found.candidate) == ("c", "c")
    assert found.sentence.startswith("3 of 4 plans are proven to be within 0.02")


def test_what_is_not_proven_is_a_candidate_only() -> None:
    found = equivalence_set(plans(0.0, 0.01, spread=1.0), {"a": 9, "b": 1}, margin=0.05, span=None, best="a")
    assert (found.smallest, found.candidate) == ("a", "b")
    unnamed = equivalence_set(plans(0.0, 0.01, spread=1.0), {"a": 9, "b": 1}, margin=0.05, span=None)
    assert (found.is_proven, unnamed.is_proven) == (True, False)


def test_one_claim_is_the_one_sided_bound_and_holm_shares_it_among_more() -> None:
    tables = plans(0.0, 0.0, 0.0, 0.4, spread=0.5)
    two = equivalence_set({name: tables[name] for name in "ab"}, PARAMS, margin=0.3, span=None, best="a")
    bound = paired_interval(tables["b"], tables["a"], level=0.90, span=None).low
    assert two.standings[0].bound == pytest.approx(bound)
    four = equivalence_set(tables, PARAMS, margin=0.3, span=None, best="a")
    first = paired_interval(tables["b"], tables["a"], level=1 - 2 * 0.05 / 3, span=None).low
    assert next(s for s in four.standings if s.name == "b").bound == pytest.approx(first)
    last = paired_interval(tables["d"], tables["a"], level=0.90, span=None).low  # alone by then
    assert four.standings[0].bound == pytest.approx(last)


def test_plans_beyond_the_margin_are_seldom_called_within() -> None:
    """Three small plans lose exactly the margin: any of them is let in in at most 5 %."""
    wrong, n_runs = 0, 150
    for seed in range(n_runs):
        rng = np.random.default_rng(seed)
        effects = rng.normal(size=(4, 4, 1)) - np.array([0, 1, 1, 1])[:, None, None]
        tables = dict(
            zip(
                "abcd", effects + 0.5 * rng.normal(size=(4, 1, 30)) + rng.normal(size=(4, 4, 30)), strict=True
            )
        )
        for best in (None, "a"):
            found = equivalence_set(tables, PARAMS, margin=1.0, span=None, best=best)
            wrong += any(s.is_within for s in found.standings if s.name != "a")
    assert wrong / (2 * n_runs) <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / n_runs)


def test_plans_with_fewer_seeds_are_compared_on_the_common_ones() -> None:
    tables = plans(0.0, 0.0)
    fewer = {"a": tables["a"], "b": tables["b"][:2]}
    found = equivalence_set(fewer, PARAMS, margin=0.05, span=None, best="a")
    same = paired_interval(tables["b"][:2], tables["a"][:2], level=0.90, span=None)
    assert found.standings[0].bound == pytest.approx(same.low)


# The winner's curse.


@pytest.mark.parametrize(
    ("promised", "end"),
    [
        (0.031, "confirmed were +1.0, so 2.1 were optimism."),
        (0.002, "confirmed were +1.0, more than it promised."),
        (0.012, "confirmed were +1.0, the same within one standard error."),
    ],
)
def test_the_promise_is_set_against_the_confirmation(promised: float, end: str) -> None:
    told = optimism(promised=promised, confirmed=0.01, std_error=0.005, n_tried=40, metric="accuracy")
    assert told.lost == pytest.approx(promised - 0.01)
    assert told.sentence.startswith(
        f"The search promised +{100 * promised:.1f} points of accuracy over the baseline"
    )
    assert told.sentence.endswith(end)


def test_losses_are_told_in_plain_numbers() -> None:
    told = optimism(promised=0.5, confirmed=-0.1, std_error=0.1, n_tried=3, metric="loss", in_points=False)
    assert told.sentence == (
        "The search promised +0.500 in loss over the baseline, as the best of 3 plans on its own split; "
        "confirmed were -0.100, so 0.600 were optimism."
    )
