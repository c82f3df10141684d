"""Searches that are ended at any file operation come back equal to the unbroken one."""

from __future__ import annotations

import os
import random

import pytest
from killing import SETTINGS, begun_or_resumed, counting, one_end, outcome_of, search

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


@pytest.fixture(scope="module")
def whole(model_dir, data_dir, tmp_path_factory):
    """The words of a search, how many file operations it takes, and its outcome."""
    words = ["--model", str(model_dir), "--data", str(data_dir), *SETTINGS]
    out = tmp_path_factory.mktemp("whole") / "run"
    code, n_operations, errors = search(begun_or_resumed(words, out), before=counting(out, None, "SIGKILL"))
    assert code == 0, errors
    return words, n_operations, outcome_of(out)


@pytest.mark.parametrize(
    ("name", "executor", "n_ends"),
    [
        ("SIGKILL", "serial", 3),
        pytest.param("SIGKILL", "serial", 30, marks=pytest.mark.nightly),
        pytest.param("SIGKILL", "process", 3, marks=pytest.mark.nightly),
        pytest.param("SIGINT", "serial", 3, marks=pytest.mark.nightly),
        pytest.param("SIGTERM", "serial", 3, marks=pytest.mark.nightly),
        pytest.param("SIGHUP", "serial", 3, marks=pytest.mark.nightly),
    ],
)
def test_an_ended_search_comes_back_equal(whole, tmp_path, name, executor, n_ends):
    words, n_operations, expected = whole
    words = [*words, "--executor", executor, "--workers", "1" if executor == "serial" else "2"]
    for index in range(n_ends):
        rng = random.Random(f"0-{index}")
        # Every third search is ended once more while it resumes.
        chosen = [rng.randint(1, n_operations) for _ in range(1 + (index % 3 == 2))]
        assert one_end(words, tmp_path / str(index), name=name, chosen=chosen, expected=expected) == []
