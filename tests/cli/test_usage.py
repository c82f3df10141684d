"""Help in two lengths, errors in one style, and answers before anything heavy is loaded."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from autopeft.cli.app import app
from autopeft.store import resolve_settings
from autopeft.types import SETTINGS, SHORT_NAMES

runner = CliRunner()


def run(*arguments, columns=200):
    return runner.invoke(app, list(map(str, arguments)), env={"COLUMNS": str(columns), "TERM": "dumb"})


def flags_of(text):
    return {word for line in text.splitlines() for word in line.split() if word.startswith("--")}


def test_the_short_help_has_what_matters_and_examples_and_the_long_one_everything():
    short, long = run("search", "--help"), run("search", "--help-all")
    every = {field.flag for field in SHORT_NAMES.values()}
    assert short.exit_code == long.exit_code == 0
    assert every <= flags_of(long.stdout)
    shown = flags_of(short.stdout) & every
    assert {"--model", "--data", "--budget", "--effort", "--out"} <= shown and len(shown) <= 15
    assert "autopeft search --model ID --data train.csv --budget 300k" in short.stdout
    assert "--help-all" in short.stdout


def test_choices_are_shown_as_choices():
    text = run("search", "--help-all").stdout
    for field in SETTINGS.values():
        if field.flag and field.choices:
            assert f"[{'|'.join(field.choices)}]" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("search", "--trials", "x"), ("--trials", "'x'")),
        (("search", "--trials", "1.5"), ("--trials", "1.5")),
        (("estimate", "ia3", "--batch-size", "x"), ("--batch-size",)),
        (("verify", "x", "--max-examples", "0"), ("--max-examples",)),
        (("estimate", "ia3", "--quantize", "3bit"), ("3bit", "4bit")),
        (("verify",), ("PATH",)),
        (("push", "run"), ("REPO",)),
        (("search", "--budgt", "1%"), ("--budgt", "--budget")),
        (("serch",), ("serch", "search")),
        (("search", "--budget", "banana"), ("banana", "0.5%")),
        (("search", "--data", "absent.csv"), ("absent.csv",)),
        (("search", "--epochs", "1e308"), ("--epochs", "1000000")),
    ],
)
def test_every_error_is_one_plain_line(arguments, words):
    result = run(*arguments)
    assert result.exit_code == 2 and result.stdout == ""
    *loading, line = result.stderr.splitlines()
    assert all(each.startswith("Loading ") for each in loading) and len(loading) <= 1
    assert line.startswith("error: ") and all(word in line for word in words)


def test_a_usage_error_names_the_help_of_its_command():
    assert run("search", "--budgt", "1%").stderr.rstrip().endswith("search --help`.")
    assert run("search", "--trials").stderr.rstrip().endswith("See `autopeft search --help`.")


def test_no_command_at_all_prints_the_help_and_no_error():
    result = run()
    assert "Usage: autopeft" in result.stdout.replace(" root ", " autopeft ") and "search" in result.stdout
    assert (result.exit_code, result.stderr) == (2, "")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("12", 12),
        ("1e3", 1000),
        ("1_000", 1000),
        ("12.0", 12),
        (" 7", 7),
    ],
)
def test_flags_of_settings_take_whole_numbers_as_people_write_them(text, number):
    spec, _ = resolve_settings(config=None, env={}, flags={"search.trials": text}, assignments=())
    assert spec.search.trials == number


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("dora", "'dora' is an option of lora; see `autopeft info methods lora`."),
        ("DoRA", "'DoRA' is an option of lora"),
        ("rslora", "'rslora' is a value of scale_rule, an option of lora"),
        ("qlora", "For 'qlora' use lora with --quantize 4bit."),
        ("LoRA", "Did you mean 'lora'?"),
        ("IA3", "Did you mean 'ia3'?"),
        ("lroa", "Did you mean 'lora'?"),
    ],
)
def test_the_name_of_an_option_or_another_spelling_leads_to_the_method(name, hint):
    assert hint in run("info", "methods", name).stderr


def test_an_unreadable_budget_is_refused_without_torch():
    code = (
        "import sys\nfrom autopeft.cli.app import app\n"
        "try: app(['search', '--budget', 'banana'])\n"
        "except SystemExit as end: print(end.code, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "False"]


@pytest.mark.parametrize("command", [(), ("search",), ("push",), ("count",), ("train",), ("export",)])
def test_switches_have_no_type_and_types_have_one_form(command):
    text = run(*command, "--help-all" if command == ("search",) else "--help").stdout
    assert "--help" in text and "bool" not in text
    assert not {"INTEGER", "FLOAT", "TEXT", "TIME", "SIZE"} & set(text.split())
    assert "Default default" not in text
