"""The order of rows: seeded, fair, in batches of similar length, and drawn no further than is needed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopeft.train.encoding import epoch_batches, train_rows

LENGTHS = st.lists(st.integers(1, 20), min_size=1, max_size=400).map(np.array)


def epoch(lengths, *, size, seed):
    rows, rng = np.arange(len(lengths)), np.random.default_rng(seed)
    return list(epoch_batches(lengths, rows, batch_size=size, rng=rng))


@given(lengths=LENGTHS, size=st.integers(1, 9), seed=st.integers(0, 99))
def test_epoch_has_each_row_at_most_once_in_full_batches(lengths, size, seed):
    batches = epoch(lengths, size=size, seed=seed)
    rows = [row for batch in batches for row in batch]
    assert len(set(rows)) == len(rows)
    assert set(rows) <= set(range(len(lengths)))
    assert [len(batch) for batch in batches] == [size] * (len(lengths) // size)
    assert batches == epoch(lengths, size=size, seed=seed)


@given(lengths=LENGTHS, size=st.integers(1, 9), seed=st.integers(0, 99), n_steps=st.integers(0, 150))
def test_longer_run_begins_with_the_rows_of_a_shorter_one(lengths, size, seed, n_steps):
    short, long = (train_rows(lengths, n_steps=n, batch_size=size, seed=seed) for n in (n_steps, 160))
    assert len(short) == n_steps
    assert long[:n_steps] == short
    size = min(size, len(lengths))
    per_epoch = len(lengths) // size
    for start in range(0, 160 - per_epoch, per_epoch):  # epoch by epoch
        rows = [row for batch in long[start : start + per_epoch] for row in batch]
        assert len(set(rows)) == len(rows) == per_epoch * size


@given(lengths=LENGTHS, size=st.integers(1, 9), seed=st.integers(0, 99), late_from=st.integers(0, 60))
def test_late_rows_join_what_the_epoch_has_not_reached(lengths, size, seed, late_from):
    n_late = len(lengths) // 4
    n_early, late = len(lengths) - n_late, set(range(len(lengths) - n_late, len(lengths)))
    drawn = train_rows(lengths, n_steps=400, batch_size=size, seed=seed, n_late=n_late, late_from=late_from)
    if not n_late:
        assert drawn == train_rows(lengths, n_steps=400, batch_size=size, seed=seed)
        return
    assert drawn[:late_from] == train_rows(lengths[:n_early], n_steps=late_from, batch_size=size, seed=seed)
    per_epoch = n_early // min(size, n_early)
    n_broken = late_from % per_epoch or (per_epoch if late_from else 0)
    seen = {row for step in drawn[late_from - n_broken : late_from] for row in step}
    n_rest, size = len(lengths) - len(seen), min(size, len(lengths))
    rest = [row for step in drawn[late_from : late_from + n_rest // size] for row in step]
    assert len(set(rest)) == len(rest) and not seen & set(rest)
    if n_rest % size == 0:
        assert late <= set(rest)


def test_batches_of_an_epoch_hold_rows_of_similar_length():
    lengths = np.random.default_rng(0).integers(3, 60, size=64)
    in_order = np.sort(lengths)  # 64 rows are one chunk: its batches are the sorted rows, cut
    assert sorted(sorted(lengths[batch]) for batch in epoch(lengths, size=8, seed=0)) == [
        in_order[i : i + 8].tolist() for i in range(0, 64, 8)
    ]


@pytest.mark.parametrize("position", [0, 7, 15, -1], ids=["first", "middle", "last of a chunk", "last"])
def test_place_in_an_epoch_says_nothing_about_length(position):
    lengths = np.arange(16 * 3 * 4)  # three chunks
    means = [lengths[epoch(lengths, size=4, seed=seed)[position]].mean() for seed in range(400)]
    # The standard deviation of a chunk's batch means is at most that of the rows.
    assert np.mean(means) == pytest.approx(lengths.mean(), abs=4 * lengths.std() / np.sqrt(400))


def test_rows_that_an_epoch_leaves_out_are_a_fair_draw():
    lengths = np.arange(67)  # 64 rows in batches of 8, and three left out
    n_left_out = np.zeros(67)
    for seed in range(2000):
        left = set(range(67)) - {row for batch in epoch(lengths, size=8, seed=seed) for row in batch}
        n_left_out[list(left)] += 1
    expected = 2000 * 3 / 67
    assert abs(n_left_out - expected).max() < 5 * np.sqrt(expected)
    assert np.average(lengths, weights=n_left_out) == pytest.approx(33, abs=4 * lengths.std() / np.sqrt(6000))
