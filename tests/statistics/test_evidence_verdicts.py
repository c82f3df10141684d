"""The label of a difference, and its sentence."""

from __future__ import annotations

import pytest
from toys.metrics import ACCURACY, ERROR_RATE, LOSS, PEARSON

from autopeft.statistics import KEPT, Difference, verdict
from autopeft.types import MetricFacts, Verdict

NAMES = ("HiRA", "LoRA")


def judged(
    mean: float,
    half: float,
    *,
    params: tuple[int, int] = (10, 10),
    metric: MetricFacts = ACCURACY,
    n_seeds: int = 1,
) -> Verdict:
    """The verdict on a mean and the half width of its interval."""
    gain = Difference(
        mean=mean, std_error=half / 2, low=mean - half, high=mean + half, n_examples=1500, n_seeds=n_seeds
    )
    return verdict(gain, names=NAMES, params=params, margin=0.01, metric=metric)


@pytest.mark.parametrize(
    ("mean", "half", "n_params", "label"),
    [
        (0.030, 0.020, 10, "better"),
        (0.030, 0.020, 5, "better"),  # better goes before smaller
        (0.020, 0.020, 10, "inconclusive"),  # an interval that touches 0
        (0.005, 0.020, 10, "inconclusive"),  # half a standard error ahead
        (0.004, 0.020, 10, KEPT),
        (0.004, 0.020, 5, KEPT),  # smaller, but it may lose more than the margin
        (0.000, 0.009, 5, "as good and smaller"),
        (-0.004, 0.005, 5, "as good and smaller"),
        (0.000, 0.009, 6, KEPT),  # more than half of the parameters
        (-0.004, 0.008, 5, KEPT),
        (-0.030, 0.010, 5, KEPT),
    ],
)
def test_label_follows_from_interval_and_parameters(
    mean: float, half: float, n_params: int, label: str
) -> None:
    assert judged(mean, half, params=(n_params, 10)).label == label


def test_verdict_keeps_the_numbers_that_it_judged() -> None:
    given = judged(0.021, 0.018, n_seeds=3)
    assert given.mean_difference == 0.021 and given.interval_95 == pytest.approx((0.003, 0.039))
    assert (given.margin, given.n_examples, given.n_seeds) == (0.01, 1500, 3)


@pytest.mark.parametrize(
    ("metric", "gain", "interval"),
    [
        (ACCURACY, "5.0 points higher", "+3.0 to +7.0"),
        (PEARSON, "0.050 higher", "+0.030 to +0.070"),
        (LOSS, "0.050 lower", "0.030 to 0.070 lower"),
        (ERROR_RATE, "5.0 points lower", "3.0 to 7.0 lower"),
    ],
)
def test_unit_and_direction_are_those_of_the_metric(metric: MetricFacts, gain: str, interval: str) -> None:
    sentence = judged(0.05, 0.02, metric=metric).sentence
    assert gain in sentence and interval in sentence


def test_without_a_challenger_the_default_is_kept() -> None:
    given = verdict(None, names=("", "LoRA"), params=(1, 1), margin=0.01, metric=ACCURACY)
    assert (given.label, given.mean_difference, given.interval_95) == (KEPT, None, None)
