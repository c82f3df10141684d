"""Help, errors in one style, and answers before anything heavy is loaded."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from autopeft.cli.app import app
from autopeft.types import SHORT_NAMES

runner = CliRunner()


def run(*arguments, columns=200):
    return runner.invoke(app, list(map(str, arguments)), env={"COLUMNS": str(columns), "TERM": "dumb"})


def flags_of(text):
    return {word for line in text.splitlines() for word in line.split() if word.startswith("--")}


def test_the_help_has_every_flag_and_examples():
    shown = run("search", "--help")
    assert {field.flag for field in SHORT_NAMES.values()} <= flags_of(shown.stdout)
    assert "autopeft search --model ID --data train.csv --budget 300k" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("search", "--trials", "x"), ("--trials", "'x'")),
        (("estimate", "ia3", "--quantize", "3bit"), ("3bit", "4bit")),
        (("check",), ("ADAPTER",)),
        (("search", "--budgt", "1%"), ("--budgt", "--budget")),
        (("serch",), ("serch", "search")),
        (("search", "--budget", "banana"), ("banana",)),
        (("search", "--data", "absent.csv"), ("absent.csv",)),
    ],
)
def test_every_error_is_one_plain_line(arguments, words):
    result = run(*arguments)
    assert result.exit_code == 2 and result.stdout == ""
    *loading, line = result.stderr.splitlines()
    assert all(each.startswith("Loading ") for each in loading) and len(loading) <= 1
    assert line.startswith("error: ") and all(word in line for word in words)


def test_no_command_at_all_prints_the_help_and_no_error():
    result = run()
    assert "Usage: autopeft" in result.stdout.replace(" root ", " autopeft ") and "search" in result.stdout
    assert (result.exit_code, result.stderr) == (2, "")


@pytest.mark.parametrize("name", ["dora", "LoRA", "lroa"])
def test_the_name_of_an_option_or_another_spelling_leads_to_the_method(name):
    assert "lora" in run("info", "methods", name).stderr


def test_an_unreadable_budget_is_refused_without_torch():
    code = (
        "import sys\nfrom autopeft.cli.app import app\n"
        "try: app(['search', '--budget', 'banana'])\n"
        "except SystemExit as end: print(end.code, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "False"]
