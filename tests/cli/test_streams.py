"""A stream that the caller has closed drops what goes there; the command runs as usual."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from autopeft.cli import app as main_module
from autopeft.cli.app import app
from autopeft.errors import SpecError
from autopeft.model.locating import load_error
from autopeft.pipeline.resuming import _refuse_missing
from autopeft.records import ModelSpec, RunSpec


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
from autopeft.cli.tables import console
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


def test_a_backend_of_matplotlib_that_is_not_installed_changes_nothing(monkeypatch):
    """Jupyter sets one in the environment of all that it starts."""
    monkeypatch.setenv("MPLBACKEND", "no_such_backend")
    monkeypatch.setattr(sys, "argv", ["autopeft", "--version"])
    for name in ("expand_segments", "fit_threads"):  # which set variables too
        monkeypatch.setattr(main_module, name, lambda: None)
    with pytest.raises(SystemExit, match="0"):
        main_module.main()
    assert os.environ["MPLBACKEND"] == "Agg"  # which matplotlib reads when it is imported


WITHOUT_UTF8 = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
WRITES_TO_A_PATH = """
import typer
from autopeft.cli.exit_codes import exit_codes
try:
    with exit_codes():
        open("donn\\xe9es")
except typer.Exit as end:
    raise SystemExit(end.exit_code)
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["-m", "autopeft", "search", "--dry-run", "--data", "données", "--budget", "1%"],
        ["-c", WRITES_TO_A_PATH],
    ],
)
def test_a_locale_that_cannot_read_a_path_is_named_with_its_remedy(arguments):
    """The path is UTF-8 text, which is no reason to rename it; in UTF-8 mode it is found to be absent."""
    command = [sys.executable, *arguments]
    environment = {**os.environ, **WITHOUT_UTF8}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert r"'donn\xe9es'" in done.stderr and "rename" not in done.stderr
    assert "this locale, whose encoding is ascii; set PYTHONUTF8=1." in done.stderr


def test_a_path_of_a_config_file_that_a_locale_cannot_write_is_not_said_to_be_absent(tmp_path):
    """The file is UTF-8 and read as such, so that the path is text; the file system has no name for it."""
    config = tmp_path / "run.yaml"
    config.write_text("data: {source: données, text_columns: [é]}\n", encoding="utf-8")
    arguments = f"config=Path({str(config)!r}), env={{}}, flags={{}}, assignments=()"
    code = "from pathlib import Path\nfrom autopeft.store import resolve_settings\n"
    code += f"resolve_settings({arguments})"
    environment = {**os.environ, **WITHOUT_UTF8}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    *_, error = done.stderr.splitlines()
    assert rf"data.source ({config}): 'donn\xe9es' cannot be read under this locale" in error
    assert error.endswith("set PYTHONUTF8=1.") and "text_columns" not in error


def test_a_stored_path_that_a_locale_cannot_write_is_not_said_to_be_absent(monkeypatch):
    """`exit_codes` names the locale then."""
    monkeypatch.setattr(os, "fsencode", lambda path: path.encode("ascii"))
    spec = RunSpec(model=ModelSpec(id="/models/données"))
    with pytest.raises(UnicodeEncodeError):
        _refuse_missing(spec)
    with pytest.raises(UnicodeEncodeError):
        load_error("/models/données", OSError())
    with pytest.raises(SpecError, match="which does not exist"):
        _refuse_missing(RunSpec(model=ModelSpec(id="/models/absent")))


def test_python_without_docstrings_is_refused_and_without_assertions_works():
    """transformers raises ValueError over its own models there, after half a minute of imports."""
    for level, code in ((1, 0), (2, 2)):
        environment = {**os.environ, "PYTHONOPTIMIZE": str(level)}
        command = [sys.executable, "-m", "autopeft", "--version"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == code
    assert (
        done.stderr.startswith("error: Python runs without docstrings") and len(done.stderr.splitlines()) == 1
    )
