"""The gate: format, lint and types, so that `pytest` alone says whether a change may go in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = (
    "scripts",
    "tools",
    "benchmarks",
    "examples",
    "reports/benchmark",
    "reports/speed",
    "reports/studies",
)
CODE = ("autopeft", "tests", "cli.py", *FOLDERS)
SCRIPTS = [
    str(path.relative_to(ROOT))
    for folder in (*FOLDERS, "tests/repository")
    for path in sorted((ROOT / folder).glob("[!_]*.py"))
    if not path.name.startswith(("test_", "conftest"))
]
# Scripts have fewer types than the package. These errors say that they use what is gone, or has changed.
GONE = (
    *("[arg-type]", "[attr-defined]", "[call-arg]", "[call-overload]", "[union-attr]"),
    *("[import-not-found]", "[import-untyped]"),
)
PLANTED = """\
from autopeft.absent import anything
from autopeft.engine import Lengths, absent

def planted(lengths: Lengths) -> None:
    lengths.absent()
    lengths.short()
    lengths.short(seed=1, absent=2)
    lengths.short(seed="1")
"""


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("command", ["ruff format --check", "ruff check"])
def test_format_and_lint_pass(command: str) -> None:
    done = run(*command.split(), *CODE)
    assert done.returncode == 0, done.stdout + done.stderr


def test_types_are_right_and_scripts_use_nothing_that_is_gone(tmp_path: Path) -> None:
    planted = tmp_path / "planted.py"
    planted.write_text(PLANTED, encoding="utf-8")
    done = run("mypy", "autopeft", "cli.py", *SCRIPTS, str(planted))
    errors = [line for line in done.stdout.splitlines() if ": error: " in line]
    faults = [line for line in errors if line.startswith(("autopeft/", "cli.py")) or line.endswith(GONE)]
    assert done.returncode == 1, done.stdout + done.stderr
    assert [line for line in faults if "planted.py:" not in line] == []
    assert {line.split(":")[1] for line in faults} == set("125678")
