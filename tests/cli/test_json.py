"""With `--json`, every command writes one JSON object on stdout, whether it succeeds, fails or is stopped."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import typer.main
from toys.commands import run

from autopeft.cli.app import app
from autopeft.cli.exit_codes import exit_codes
from autopeft.errors import AutopeftError, BudgetError, SpecError, TargetError

# Arguments with which a command finds its fault before it loads anything.
FAULTS = {
    "search": "--budget banana",
    "tune": "--budget banana --full-steps 2 -- true",
    "analyze": "--data ,",
    "train": "--plan absent",
    "try": "absent text",
    "report": "absent",
    "count": "absent",
    "estimate": "absent",
    "suggest": "./absent",
    "info methods": "absent",
    "info spaces": "absent",
    "export": "absent --to native --out export",
    "check": "absent",
    "push": "absent user/name",
}


def commands_with_json(group, *above):
    """The words of each command that takes --json, in sub-commands too."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands_with_json(command, *above, name)
        elif any("--json" in parameter.opts for parameter in command.params):
            yield " ".join((*above, name))


COMMANDS = sorted(commands_with_json(typer.main.get_command(app)))


def error_of(result):
    """The error in the one object on stdout; its message is the error on stderr, too."""
    (content,) = json.loads(result.stdout).values()
    assert result.exit_code == content["exit_code"]
    assert f"error: {content['message']}" in result.stderr.splitlines()
    return content


@pytest.mark.parametrize("command", COMMANDS)
def test_wrong_usage_is_one_object(command):
    error = error_of(run(*command.split(), "--json", "--no-such-flag"))
    assert (error["code"], error["exit_code"]) == ("usage", 2)


@pytest.mark.parametrize("command", [name for name in COMMANDS if name in FAULTS])
def test_an_error_of_a_command_is_one_object(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert error_of(run(command, "--json", *FAULTS[command].split()))["code"] == "usage"


def test_every_command_that_can_fail_has_a_fault_here():
    assert set(COMMANDS) - FAULTS.keys() <= {"info formats", "info skill"}


def test_words_behind_two_dashes_ask_for_no_json():
    result = run("tune", "--no-such-flag", "--", "train", "--json")
    assert (result.exit_code, result.stdout) == (2, "")


def test_nothing_to_adapt_exits_with_3(tiny_llama):
    error = error_of(run("count", "bitfit", "--model", tiny_llama, "--json"))
    assert (error["code"], error["exit_code"]) == (TargetError.code, 3)


def test_a_budget_below_every_plan_exits_with_4(tiny_llama):
    error = error_of(run("suggest", tiny_llama, "--budget", 1, "--json"))
    assert (error["code"], error["exit_code"]) == (BudgetError.code, 4)


def test_a_step_that_does_not_fit_keeps_its_answer(tiny_llama):
    step = ("lora_r4", "--model", tiny_llama, "--device", "l4", "--memory", "1KiB")
    result = run("estimate", *step, "--json")
    assert result.exit_code == 3 and json.loads(result.stdout)["fits"] is False


@pytest.mark.parametrize(
    ("error", "code", "exit_code", "message"),
    [
        (AutopeftError("The run failed."), "failed", 1, "The run failed."),
        (OSError(28, "No space left on device", "a.csv"), "failed", 1, "a.csv: No space left on device."),
        (SpecError("The run is locked."), "usage", 2, "The run is locked."),
    ],
)
def test_an_error_has_a_code_an_exit_code_and_a_message(error, code, exit_code, message, capsys):
    with pytest.raises(typer.Exit) as ended, exit_codes(as_json=True):
        raise error
    expected = {"code": code, "exit_code": exit_code, "message": message}
    assert json.loads(capsys.readouterr().out) == {"error": expected}
    assert ended.value.exit_code == exit_code


def test_an_unforeseen_error_is_named_and_keeps_its_traceback(capsys):
    with pytest.raises(ZeroDivisionError), exit_codes(as_json=True):
        raise ZeroDivisionError("division by zero")
    expected = {"code": "internal", "exit_code": 1, "message": "ZeroDivisionError: division by zero"}
    assert json.loads(capsys.readouterr().out) == {"error": expected}


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_is_one_object_and_its_exit_code(name, model_dir, data_dir, tmp_path):
    flags = f"--model {model_dir} --data {data_dir} --budget 5% --max-steps 5000 --out run --json".split()
    process = subprocess.Popen(
        [sys.executable, "-m", "autopeft", "search", *flags],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    for _ in itertools.takewhile(lambda _: not (tmp_path / "run/run.yaml").exists(), range(600)):
        time.sleep(0.1)
    process.send_signal(getattr(signal, name))
    stdout, _ = process.communicate(timeout=60)
    number = 128 + getattr(signal, name)
    expected = {"code": "interrupted", "exit_code": number, "message": f"Stopped by {name}."}
    assert process.returncode == number and json.loads(stdout) == {"error": expected}
