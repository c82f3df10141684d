"""Searches that are ended at any file operation come back equal to the unbroken one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.parametrize(
    ("name", "executor", "n_ends"),
    [
        ("SIGKILL", "serial", 3),
        pytest.param("SIGKILL", "serial", 8, marks=pytest.mark.nightly),
        pytest.param("SIGKILL", "process", 1, marks=pytest.mark.nightly),
        pytest.param("SIGINT", "serial", 1, marks=pytest.mark.nightly),
        pytest.param("SIGTERM", "serial", 1, marks=pytest.mark.nightly),
        pytest.param("SIGHUP", "serial", 1, marks=pytest.mark.nightly),
    ],
)
def test_an_ended_search_comes_back_equal(model_dir, data_dir, tmp_path, name, executor, n_ends):
    command = [sys.executable, str(TESTS / "faults/killing.py"), "--model", str(model_dir)]
    command += ["--data", str(data_dir), "--ends", str(n_ends), "--signal", name, "--executor", executor]
    command += ["--csv", str(tmp_path / "ends.csv")]
    paths = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["faults"] == {}
