"""Help in two lengths, errors in one style, and answers before anything heavy is loaded."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from autopeft.budget import check, parse
from autopeft.cli.app import app
from autopeft.cli.options import whole
from autopeft.errors import SpecError
from autopeft.records import SETTINGS, SHORT_NAMES
from autopeft.store import resolve_settings

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
    assert {"--model", "--data", "--budget", "--trials", "--out"} <= shown and len(shown) <= 14
    assert "autopeft search --model ID --data train.csv --budget 300k" in short.stdout
    assert "--help-all" in short.stdout


def test_choices_are_shown_as_choices():
    text = run("search", "--help-all").stdout
    for field in SETTINGS.values():
        if field.flag and field.choices:
            assert f"[{'|'.join(field.choices)}]" in text


def test_a_hidden_flag_still_works():
    assert "cannot be read" in run("search", "--batch-size", 4, "--budget", "banana").stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("search", "--trials", "x"), ("--trials", "is 'x'; it should be a whole number, such as 12.")),
        (("search", "--trials", "1.5"), ("--trials", "is 1.5; it should be a whole number, such as 12.")),
        (("search", "--trials", "1_0"), ("--trials", "is '1_0'; it should be a whole number, such as 12.")),
        (("estimate", "ia3", "--batch-size", "x"), ("--batch-size is 'x'; it should be a whole number, s",)),
        (("estimate", "ia3", "--gpu-price", ""), ("--gpu-price is ''; it should be a valid number. See",)),
        (("verify", "x", "--max-examples", "0"), ("--max-examples is 0; it should be greater than or e",)),
        (("estimate", "ia3", "--quantize", ""), ("--quantize is '', it should be none or 4bit or 8bit.",)),
        (("search", "--max-time", "٥m"), ("'٥m' is not a duration above 0",)),
        (("verify",), ("Missing argument 'PATH'",)),
        (("push",), ("Missing argument 'RUN'",)),
        (("push", "run"), ("Missing argument 'REPO'",)),
        (("search", "--budgt", "1%"), ("--budgt", "--budget")),
        (("serch",), ("serch", "search")),
        (("count",), ("PATH",)),
        (("search", "--budget", "banana"), ("banana", "0.5%")),
        (("search", "--data", ","), ("names no file",)),
        (("search", "--data", "x" * 300), ("does not exist", "spelling")),
        (("count", "x" * 300), ("no file", "too long")),
        (("search", "--epochs", "1e308"), ("--epochs", "1000000")),
        (("search", "--max-cost", "1e308"), ("--max-cost", "1000000000")),
    ],
)
def test_every_error_is_one_plain_line(arguments, words):
    result = run(*arguments)
    assert result.exit_code == 2 and result.stdout == ""
    (line,) = result.stderr.splitlines()
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
        ("1,000,000", 1_000_000),
        ("12.0", 12),
        (" 7", 7),
        ("-3", -3),
    ],
)
def test_flags_of_commands_and_of_settings_take_the_same_whole_numbers(text, number):
    small = typer.Typer()

    @small.command()
    def command(rows: Annotated[int | None, whole("Rows.")] = None) -> None:
        print(rows)

    assert runner.invoke(small, ["--rows", text]).stdout == f"{number}\n"
    if number > 0:
        spec, _ = resolve_settings(config=None, env={}, flags={"search.trials": text}, assignments=())
        assert spec.search.trials == number


@pytest.mark.parametrize("text", ["1_0", "1,00", "1,000_000", "2k", "1.5", "", "one", "[1]"])
def test_what_is_no_whole_number_is_shown_in_both(text):
    command = run("estimate", "ia3", "--model", "x", "--batch-size", text)
    setting = run("search", "--trials", text)
    for done, flag in ((command, "--batch-size"), (setting, "--trials")):
        assert done.exit_code == 2 and flag in done.stderr and text in done.stderr
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(("flag", "value"), [("--trials", "3.5"), ("--trials", "1_0"), ("--epochs", "many")])
def test_a_flag_refuses_what_a_file_refuses_and_shows_the_value(flag, value):
    kind = "whole number, such as 12" if flag == "--trials" else "valid number"
    (line,) = run("search", flag, value).stderr.splitlines()
    assert f"({flag}) is {value if value == '3.5' else repr(value)}; it should be a {kind}" in line


def test_an_empty_folder_to_write_to_is_refused():
    assert "(--out): '' names nothing" in run("search", "--out", "").stderr


def test_help_is_printed_where_output_is_ascii():
    done = subprocess.run(
        [sys.executable, "-m", "autopeft", "search", "--help-all"],
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert done.returncode == 0 and b"--trials" in done.stdout and not done.stderr


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("dora", "'dora' is an option of lora; see `autopeft methods lora`."),
        ("DoRA", "'DoRA' is an option of lora"),
        ("rslora", "'rslora' is a value of scale_rule, an option of lora"),
        ("qlora", "For 'qlora' take lora with --quantize 4bit."),
        ("LoRA", "Did you mean 'lora'?"),
        ("IA3", "Did you mean 'ia3'?"),
        ("lroa", "Did you mean 'lora'?"),
    ],
)
def test_the_name_of_an_option_or_another_spelling_leads_to_the_method(name, hint):
    assert hint in run("methods", name).stderr


@pytest.mark.parametrize("budget", ["banana", "0", "0%", "-1", "101%", ""])
def test_a_budget_that_no_model_has_is_refused_before_a_model_is_known(budget):
    with pytest.raises(SpecError, match="budget"):
        check(budget)
    with pytest.raises(SpecError, match="budget"):
        parse(budget, base_params=10**9)


def test_an_unreadable_budget_is_refused_without_torch():
    code = (
        "import sys\nfrom autopeft.cli.app import app\n"
        "try: app(['search', '--budget', 'banana'])\n"
        "except SystemExit as end: print(end.code, 'torch' in sys.modules, 'matplotlib' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "False", "False"]


def test_a_space_is_printed_as_its_file():
    result = run("spaces", "lora_only")
    assert result.exit_code == 0 and "schema_version: 1" in result.stdout
    assert "Did you mean 'lora_only'?" in run("spaces", "lora_onyl").stderr


def test_the_help_of_a_command_without_workers_or_with_one_default_says_so():
    train, estimate = run("train", "--help").stdout, run("estimate", "--help").stdout
    assert "several workers" not in train and "executor" not in train
    (dtype,) = (line for line in estimate.splitlines() if "--dtype" in line)
    assert "bfloat16 or float32; auto is bfloat16" in dtype and "Default" not in dtype


@pytest.mark.parametrize("command", [(), ("search",), ("push",), ("count",), ("train",), ("export",)])
def test_switches_have_no_type_and_types_have_one_form(command):
    text = run(*command, "--help-all" if command == ("search",) else "--help").stdout
    assert "--help" in text and "bool" not in text
    assert not {"INTEGER", "FLOAT", "TEXT", "TIME", "SIZE"} & set(text.split())
    assert "Default default" not in text
