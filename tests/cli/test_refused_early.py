"""Folders that are taken, and the environment."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from autopeft.cli.app import app


def run(*arguments, env=None):
    return CliRunner().invoke(app, list(map(str, arguments)), env=env)


@pytest.mark.parametrize("place", ["a run", "a file", "below a file"])
def test_a_dry_run_refuses_a_folder_that_the_search_refuses(model_dir, data_dir, tmp_path, place):
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "run.yaml").touch()
    out = {"a run": run_dir, "a file": run_dir / "run.yaml", "below a file": run_dir / "run.yaml" / "new"}[
        place
    ]
    search = ("search", "--model", model_dir, "--data", data_dir, "--max-steps", 4, "--out", out)
    for flags in ((), ("--dry-run",)):
        done = run(*search, *flags)
        assert done.exit_code == 2 and str(run_dir) in done.stderr and "Traceback" not in done.output
    assert [path.name for path in run_dir.iterdir()] == ["run.yaml"]


def test_train_and_analyze_read_the_environment(finished, model_dir, data_dir, tmp_path):
    scored = tmp_path / "scored"
    flags = ("--model", model_dir, "--data", data_dir, "--max-examples", 8, "--scores", "gradient")
    assert run("analyze", *flags, env={"AUTOPEFT_OUTPUT_OUT": str(scored)}).exit_code == 0
    assert (scored / "sensitivity.csv").is_file()
    train = ("train", "--plan", finished, "--json")
    env = {"AUTOPEFT_OUTPUT_OUT": str(tmp_path / "adapter"), "AUTOPEFT_SEARCH_SEED": "7"}
    done = run(*train, env=env)
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["out"] == str(tmp_path / "adapter")
    assert "seed: 7" in (tmp_path / "adapter" / "plan.yaml").read_text()
    done = run(*train, "--out", tmp_path / "flag", env=env)
    assert json.loads(done.stdout)["out"] == str(tmp_path / "flag")
    assert run(*train, env={"AUTOPEFT_SEARCH_SED": "7"}).exit_code == 2
