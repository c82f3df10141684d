"""A stream that the caller has closed drops what goes there; the command runs as usual."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from autopeft.cli.app import app


def run_in_shell(line, home):
    environment = {**os.environ, "XDG_CACHE_HOME": str(home)}
    command = f"{sys.executable} -m autopeft {line}"
    return subprocess.run(command, shell=True, capture_output=True, text=True, check=False, env=environment)


def test_a_closed_stream_changes_nothing_but_what_is_read_from_it(tmp_path):
    usual = CliRunner().invoke(app, ["methods"])
    for closed in (">&-", "2>&-", ">&- 2>&-"):
        done = run_in_shell(f"methods {closed}", tmp_path)
        assert done.returncode == 0 and not done.stderr
        assert done.stdout == ("" if closed.startswith(">") else usual.stdout)


def test_an_error_keeps_its_exit_code_where_nobody_can_read_it(tmp_path):
    assert run_in_shell("search --budget banana 2>&-", tmp_path).returncode == 2


PRINTS_LONG = """
import sys
from autopeft.cli.exit_codes import exit_codes, reader_may_leave
from autopeft.cli.results import console
with exit_codes(), reader_may_leave():
    for number in range(3_000):
        console().print(f"line {number}")
"""


@pytest.mark.parametrize("reader", ["head -n 1", "grep -q line"])
def test_a_reader_that_leaves_early_changes_no_exit_code(reader):
    """The work is done, and its result on the disk."""
    command = f"set -o pipefail; {sys.executable} -c '{PRINTS_LONG}' | {reader}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == ("line 0\n" if reader.startswith("head") else "")
