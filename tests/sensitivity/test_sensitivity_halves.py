"""The two halves of the examples: how they are ranked against each other, and when a pass stops."""

from __future__ import annotations

import pytest
from scipy import stats
from toys.sensitivity import run_scores, score_by_site


def test_halves_are_ranked_against_each_other(bert, task, make_batch):
    batches = [make_batch(seed=seed) for seed in range(4)]
    (scores,) = run_scores(["fisher"], bert, batches, task=task).scores
    first, second = (score_by_site("fisher", bert, half, task=task) for half in (batches[::2], batches[1::2]))
    expected = stats.spearmanr(list(first.values()), list(second.values())).statistic
    assert scores.split_half == pytest.approx(expected)


def test_it_stops_by_itself_where_the_halves_agree(bert, task, make_batch):
    taken = []
    batches = (taken.append(1) or make_batch(16, seed=0) for _ in range(40))  # halves that agree at once
    seen = run_scores(["fisher", "parameters"], bert, batches, task=task)
    assert seen.n_examples == 64
    assert [score.n_examples for score in seen.scores] == [64, 0]
    assert len(taken) == 4
