"""The gate: format, lint and types, so that `pytest` alone says whether a change may go in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = "autopeft tests scripts reports/studies cli.py"


@pytest.mark.parametrize(
    "command",
    [f"ruff format --check {CODE}", f"ruff check {CODE}", "mypy"],
)
def test_gate_passes(command: str) -> None:
    done = subprocess.run([sys.executable, "-m", *command.split()], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
