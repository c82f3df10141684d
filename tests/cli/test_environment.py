"""What is set before torch is imported: threads that fit a container, and memory that grows in place."""

from __future__ import annotations

import os
import platform
import sys

import pytest

from autopeft.cli import environment


@pytest.mark.parametrize(
    ("cores", "n_seen", "given", "n_threads"),
    [
        (0.5, 64, {}, "1"),
        (2.5, 64, {}, "3"),
        (8.0, 2, {}, None),  # torch takes two by itself
        (None, 64, {}, None),
        (2.0, 64, {"OMP_NUM_THREADS": "16"}, "16"),
        # As on a cluster whose Slurm binds no tasks to cores, so that all 64 are seen.
        (None, 64, {"SLURM_CPUS_PER_TASK": "4"}, "4"),
        (2.0, 64, {"SLURM_CPUS_PER_TASK": "4"}, "2"),
        (None, 64, {"SLURM_CPUS_PER_TASK": "4", "OMP_NUM_THREADS": "16"}, "16"),
    ],
)
def test_threads_follow_the_limits_unless_the_user_chose(cores, n_seen, given, n_threads, monkeypatch):
    monkeypatch.setattr(environment, "allowed_cores", lambda: cores)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(n_seen)))
    monkeypatch.setattr(os, "environ", dict(given))
    environment.fit_threads()
    assert os.environ.get("OMP_NUM_THREADS") == n_threads


@pytest.mark.parametrize(
    ("given", "n_spins"),
    [({}, "3000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)],
)
def test_threads_spin_for_a_short_time_unless_the_user_chose(given, n_spins, monkeypatch):
    monkeypatch.setattr(os, "environ", dict(given))
    environment.fit_threads()
    assert os.environ.get("GOMP_SPINCOUNT") == n_spins


@pytest.mark.parametrize(
    ("system", "kernel", "given", "is_set"),
    [
        ("linux", "6.8.0-generic", {}, True),
        ("win32", "", {}, False),
        ("linux", "5.15.167.4-microsoft-standard-WSL2", {}, False),
        ("linux", "6.8.0-generic", {"PYTORCH_ALLOC_CONF": "max_split_size_mb:64"}, False),
    ],
)
def test_segments_grow_on_linux_unless_the_user_has_chosen(system, kernel, given, is_set, monkeypatch):
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "release", lambda: kernel)
    monkeypatch.setattr(os, "environ", dict(given))
    environment.expand_segments()
    assert (os.environ.get("PYTORCH_CUDA_ALLOC_CONF") == "expandable_segments:True") == is_set
