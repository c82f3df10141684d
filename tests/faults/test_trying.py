"""The scripts that try faults in large numbers, here in small ones: no input and no full disk brings one."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import fuzzing
import pytest
from timing import limits

from autopeft.errors import SpecError

TESTS = Path(__file__).parents[1]


def run(script, *options):
    """What a script prints, and its rows."""
    command = [sys.executable, str(TESTS / "faults" / script), *map(str, options)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, cwd=TESTS.parent
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_an_absurd_input_brings_an_error_of_our_own_only(run_copy, data_dir, tmp_path):
    readers = fuzzing.Readers(tmp_path, run=run_copy, data=data_dir)
    tries = {
        f"{kind}-{i}": fuzzing.tried(read, random.Random(f"{kind}-0-{i}"))
        for kind, (read, _) in readers.kinds().items()
        for i in range(10)
    }
    assert {name: fault for name, (_, fault, _) in tries.items() if fault} == {}


@pytest.mark.nightly
def test_absurd_inputs_bring_errors_of_our_own_only(tmp_path):
    options = ("--csv", tmp_path / "rows.csv")
    assert run("fuzzing.py", "--inputs", 100, *options) == {"inputs": 900, "faults": {}}
    before = (tmp_path / "rows.csv").read_text()
    assert run("fuzzing.py", "--inputs", 100, *options) == {"inputs": 900, "faults": {}}
    assert (tmp_path / "rows.csv").read_text() == before  # nothing was tried again


@pytest.mark.nightly
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_failing_disk_costs_nothing(tmp_path):
    tried = run("filling.py", "--sizes", 2, "--ways", "write", "folder", "--csv", tmp_path / "rows.csv")
    assert tried == {"trials": 4, "faults": {}}


def test_an_absurdly_long_value_is_not_repeated_in_full():
    message = SpecError(f"the value is {'9' * 5000} and too large; lower it")
    assert str(message) == f"the value is {'9' * 100}… and too large; lower it"


def test_time_limits_are_spread_by_ratio():
    found = limits(20)
    assert (found[0], found[-1], len(found)) == (15, 600, 20)
    assert max(b / a for a, b in pairwise(found)) < 1.25  # rounded to seconds; the ratio is 40 ** (1 / 19)
