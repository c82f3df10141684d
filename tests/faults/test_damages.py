"""Files of a run that are cut off: a command reports it in a sentence, or gives what it gave before."""

from __future__ import annotations

import shutil

import pytest
from typer.testing import CliRunner

from autopeft import commands
from autopeft.cli.app import app
from autopeft.errors import RunDirError

COMMANDS = {
    "report": ("state/search_result.json",),
    "search --resume --out": ("run.yaml", "state/state.json"),
    "export --to native --out out": (
        "best/plan.yaml",
        "best/weights/adapter_config.json",
        "best/weights/adapter_model.safetensors",
    ),
    "check": ("best/weights/adapter_config.json",),
    "train --out out --plan": ("best/plan.yaml",),
}
CASES = [(command, name) for command, names in COMMANDS.items() for name in names]


@pytest.mark.parametrize(("command", "name"), CASES)
def test_a_file_that_is_cut_off_is_reported_in_a_sentence(run_copy, tmp_path, monkeypatch, command, name):
    monkeypatch.chdir(tmp_path)
    path = run_copy / name
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    result = CliRunner().invoke(app, [*command.split(), str(run_copy)])
    assert result.exit_code == 2, result.output
    assert len([line for line in result.stderr.splitlines() if line.startswith("error: ")]) == 1


def test_an_adapter_config_that_is_cut_off_is_reported_by_try(run_copy):
    path = run_copy / "best/weights/adapter_config.json"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(RunDirError, match=path.name):
        commands.try_run(run_copy, ["a film"])


def test_a_resumed_run_measures_again_what_the_log_has_lost(run_copy, finished):
    log = run_copy / "state/measurements.jsonl"
    content = log.read_bytes()
    log.write_bytes(content[: content.rfind(b"{", 0, -200)])
    result = CliRunner().invoke(app, ["search", "--resume", "--out", str(run_copy)])
    assert result.exit_code == 0, result.output
    shutil.rmtree(run_copy / "state/under_way", ignore_errors=True)
    assert log.read_bytes().count(b"\n") >= content.count(b"\n")
