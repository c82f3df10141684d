"""The contract of a metric of labels, held to every one that is found."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from autopeft.metrics import jackknife
from autopeft.plugins import discover

METRICS = discover("autopeft.metrics")
by_metric = pytest.mark.parametrize("name", METRICS)


def drawn(kind, rng, n):
    """Truth and guesses of a kind that agree on some."""
    if kind == "number":
        truth = rng.normal(size=n)
        return truth, truth + rng.normal(size=n)
    shape = (n, 4) if kind == "classes" else (n,)
    truth, other = rng.integers(0, 2 if kind == "classes" else 3, size=(2, *shape)).astype(float)
    return truth, np.where(rng.random(shape) < 0.5, truth, other)


@pytest.mark.parametrize("kind", ["class", "uneven", "classes", "number"])
def test_every_kind_of_target_has_one_default_metric(kind):
    (default,) = [metric for metric in METRICS.values() if kind in metric.default_for]
    assert kind.replace("uneven", "class") in default.kinds


@by_metric
@given(seed=st.integers(0, 10_000), n=st.integers(1, 40))
def test_scores_have_the_metric_as_their_mean_and_follow_their_rows(name, seed, n):
    metric, rng = METRICS[name], np.random.default_rng(seed)
    for kind in metric.kinds:
        truth, guesses = drawn(kind, rng, n)
        value, scores = metric.score(truth, guesses)
        assert np.mean(scores) == pytest.approx(value, abs=1e-9)
        order = rng.permutation(n)
        moved, moved_scores = metric.score(truth[order], guesses[order])
        assert moved == pytest.approx(value, abs=1e-9)
        assert moved_scores == pytest.approx(np.array(scores)[order], abs=1e-7)
        assert not metric.is_share or 0 <= value <= 1
        if metric.score_span is not None:
            assert np.ptp(scores) <= metric.score_span


@by_metric
def test_perfect_guesses_are_the_best_there_are(name):
    metric, rng = METRICS[name], np.random.default_rng(0)
    for kind in metric.kinds:
        truth, guesses = drawn(kind, rng, 60)
        right, seen = metric.score(truth, truth)[0], metric.score(truth, guesses)[0]
        assert right == pytest.approx(1.0 if metric.greater_is_better else 0.0, abs=1e-9)
        assert (right > seen) == metric.greater_is_better


@by_metric
def test_scores_spread_as_the_metric_does_without_each_row(name):
    """Against the jackknife by brute force, which knows nothing of cells or counts."""
    metric, rng = METRICS[name], np.random.default_rng(1)
    for kind in metric.kinds:
        truth, guesses = drawn(kind, rng, 25)
        value, scores = metric.score(truth, guesses)
        rows = np.arange(25)
        without = np.array([metric.score(truth[rows != i], guesses[rows != i])[0] for i in rows])
        by_hand = value + 24 * (without.mean() - without)
        assert scores == pytest.approx(by_hand, abs=1e-8)


def test_jackknife_of_a_mean_gives_its_rows():
    rows = np.random.default_rng(0).integers(0, 2, size=50).astype(float)
    value, scores = jackknife(lambda t, g: float((t == g).mean()), rows, np.ones(50))
    assert (value, scores) == (pytest.approx(rows.mean()), pytest.approx(rows))


BY_SCIKIT_LEARN = {
    "balanced-accuracy": metrics.balanced_accuracy_score,
    "matthews": metrics.matthews_corrcoef,
    # A guessed class without rows adds no 0.
    "macro-f1": lambda t, g: metrics.f1_score(t, g, average="macro", labels=np.unique(t), zero_division=0),
}


@pytest.mark.filterwarnings("ignore::UserWarning:sklearn")  # of a class that is only guessed, or alone
@pytest.mark.parametrize("name", BY_SCIKIT_LEARN)
@pytest.mark.parametrize(("n_classes", "guesses"), [(12, range(12)), (3, range(3, 6)), (3, [1]), (1, [0])])
def test_metrics_of_classes_are_those_of_scikit_learn(name, n_classes, guesses):
    """Many rare classes, classes that are only guessed, one guess, and one class alone."""
    rng = np.random.default_rng(3)
    truth, other = rng.integers(0, n_classes, 40), rng.choice(guesses, 40)
    guessed = np.where(rng.random(40) < 0.6 * (len(guesses) > 1), truth, other)
    value, scores = METRICS[name].score(truth.astype(float), guessed.astype(float))
    expected, left_out = BY_SCIKIT_LEARN[name](truth, guessed), range(len(truth))
    without = [BY_SCIKIT_LEARN[name](np.delete(truth, i), np.delete(guessed, i)) for i in left_out]
    assert value == pytest.approx(expected, abs=1e-12)
    assert scores == pytest.approx(expected + (len(truth) - 1) * (np.mean(without) - without), abs=1e-9)
