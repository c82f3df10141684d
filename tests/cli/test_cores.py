"""The variable by which torch takes no more threads than a container runs."""

from __future__ import annotations

import os

import pytest

from autopeft.cli import threads


@pytest.mark.parametrize(
    ("cores", "n_seen", "given", "n_threads"),
    [
        (0.5, 64, None, "1"),
        (2.5, 64, None, "3"),
        (8.0, 2, None, None),  # torch takes two by itself
        (None, 64, None, None),
        (2.0, 64, "16", "16"),
    ],
)
def test_threads_follow_the_limit_unless_the_user_chose(cores, n_seen, given, n_threads, monkeypatch):
    monkeypatch.setattr(threads, "allowed_cores", lambda: cores)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(n_seen)))
    monkeypatch.setattr(os, "environ", {} if given is None else {"OMP_NUM_THREADS": given})
    threads.fit_threads()
    assert os.environ.get("OMP_NUM_THREADS") == n_threads
