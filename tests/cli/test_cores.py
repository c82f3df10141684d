"""The variables by which torch takes no more threads than a container runs, and lets them sleep."""

from __future__ import annotations

import os

import pytest

from autopeft.cli import environment


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
    monkeypatch.setattr(environment, "allowed_cores", lambda: cores)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(n_seen)))
    monkeypatch.setattr(os, "environ", {} if given is None else {"OMP_NUM_THREADS": given})
    environment.fit_threads()
    assert os.environ.get("OMP_NUM_THREADS") == n_threads


@pytest.mark.parametrize(
    ("by_slurm", "cores", "given", "n_threads"),
    [
        ("4", None, None, "4"),
        ("4", 2.0, None, "2"),
        ("4", None, "16", "16"),
    ],
)
def test_threads_are_those_of_a_slurm_task(by_slurm, cores, given, n_threads, monkeypatch):
    """As on a cluster whose Slurm binds no tasks to cores, so that all 64 are seen."""
    own = {} if given is None else {"OMP_NUM_THREADS": given}
    monkeypatch.setattr(environment, "allowed_cores", lambda: cores)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    monkeypatch.setattr(os, "environ", {"SLURM_CPUS_PER_TASK": by_slurm, **own})
    environment.fit_threads()
    assert os.environ.get("OMP_NUM_THREADS") == n_threads


@pytest.mark.parametrize(
    ("own", "n_spins"),
    [({}, "3000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)],
)
def test_threads_spin_for_a_short_time_unless_the_user_chose(own, n_spins, monkeypatch):
    monkeypatch.setattr(os, "environ", dict(own))
    environment.fit_threads()
    assert os.environ.get("GOMP_SPINCOUNT") == n_spins
