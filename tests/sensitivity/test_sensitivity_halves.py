"""The two halves of the examples: how they are ranked against each other, and when a pass stops."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from toys.sensitivity import run_scores, score_by_target

from autopeft.sensitivity._shared.measure import rank_correlation


def test_halves_are_ranked_against_each_other(bert, task, make_batch):
    batches = [make_batch(seed=seed) for seed in range(4)]
    (scores,) = run_scores(["fisher"], bert, batches, task=task).scores
    first, second = (
        score_by_target("fisher", bert, half, task=task) for half in (batches[::2], batches[1::2])
    )
    expected = stats.spearmanr(list(first.values()), list(second.values())).statistic
    assert scores.split_half == pytest.approx(expected)


def test_it_stops_by_itself_where_the_halves_agree(bert, task, make_batch):
    taken = []
    batches = (taken.append(1) or make_batch(16, seed=0) for _ in range(40))  # halves that agree at once
    seen = run_scores(["fisher", "parameters"], bert, batches, task=task)
    assert seen.n_examples == 64
    assert [score.n_examples for score in seen.scores] == [64, 0]
    assert len(taken) == 4


def test_rank_correlation_is_scipys() -> None:
    rng = np.random.default_rng(2)
    a = rng.normal(size=20)
    b = a + rng.normal(size=20)
    expected = stats.spearmanr(a, b).statistic
    assert rank_correlation(a.tolist(), b.tolist()) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ([], []),
        ([1, 2], [1, 2]),
        ([1, 1, 1], [1, 2, 3]),
        ([1, 2, 3], [4, 4, 4]),
    ],
)
def test_rank_correlation_is_none_where_there_is_no_order(a: list[float], b: list[float]) -> None:
    assert rank_correlation(a, b) is None
