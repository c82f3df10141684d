"""The agreement of even and odd batches, and a pass that ends where they agree."""

from __future__ import annotations

import pytest
from scipy import stats
from toys.sensitivity import run_scores, score_by_target


def test_even_and_odd_batches_are_compared(bert, task, make_batch):
    batches = [make_batch(seed=seed) for seed in range(4)]
    (scores,) = run_scores(["fisher"], bert, batches, task=task).scores
    even, odd = (score_by_target("fisher", bert, half, task=task) for half in (batches[::2], batches[1::2]))
    expected = stats.spearmanr(list(even.values()), list(odd.values())).statistic
    assert scores.split_half == pytest.approx(expected)


def test_a_pass_ends_where_halves_agree(bert, task, make_batch):
    taken = []
    batches = (taken.append(1) or make_batch(16, seed=0) for _ in range(40))  # halves that agree at once
    seen = run_scores(["fisher", "parameters"], bert, batches, task=task)
    assert [score.n_examples for score in seen.scores] == [64, 0]
    assert len(taken) == 4
