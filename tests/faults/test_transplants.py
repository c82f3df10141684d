"""Parts of a run that are edited, or come from another run, are refused by all that reads them."""

from __future__ import annotations

import json
import re
import shutil

import pytest
from safetensors.torch import load_file, save_file
from toys.exports import refused
from typer.testing import CliRunner

import autopeft
from autopeft.cli.app import app
from autopeft.commands import train_plan
from autopeft.errors import SpecError
from autopeft.store import RunDir

BEST = "best/weights"


def readers(run, out):
    """Commands that read the finished adapter of a run."""
    return (
        ["try", run, "a good film"],
        ["verify", run],
        ["export", run, "--to", "native", "--out", out],
        ["push", run, "someone/adapter", "--base-model", "a/base", "--dry-run"],
    )


def invoke(words):
    return CliRunner().invoke(app, [*map(str, words)])


def without_checksums(folder):
    (folder / "checksums.json").unlink()


def with_empty_checksums(folder):
    (folder / "checksums.json").write_text("{}")


def with_checksums_of_another(folder):
    """Those of the training alone, as they come with its tensors, know nothing of training.json."""
    path = folder / "checksums.json"
    sums = json.loads(path.read_text())
    path.write_text(json.dumps({name: sums[name] for name in sums if name.startswith("adapter_")}))


@pytest.mark.parametrize("change", [without_checksums, with_empty_checksums, with_checksums_of_another])
def test_an_adapter_whose_checksums_are_gone_is_refused(run_copy, change):
    change(run_copy / BEST)
    with pytest.raises(SpecError, match=r"checksums\.json is missing or of other files"):
        autopeft.load_result(run_copy).load()


def test_every_command_refuses_an_adapter_whose_checksums_are_gone(run_copy, tmp_path):
    without_checksums(run_copy / BEST)
    for words in readers(run_copy, tmp_path / "out"):
        refused(invoke(words), 2, "checksums.json is missing or of other files")


def test_tensors_without_what_says_how_they_were_trained_are_a_plain_adapter_but_not_a_run_s(
    run_copy, tmp_path
):
    path = run_copy / BEST / "adapter_model.safetensors"
    save_file({name: tensor * 2 for name, tensor in load_file(path).items()}, path)
    for name in ("checksums.json", "training.json"):
        (run_copy / BEST / name).unlink()
    for words in readers(run_copy, tmp_path / "out"):
        refused(invoke(words), 2, "training.json cannot be read")
    plain = ["export", run_copy / BEST, "--to", "native", "--out", tmp_path / "plain"]
    assert invoke(plain).exit_code == 0


def test_a_result_that_is_not_of_the_run_is_told_neither_by_report_nor_by_what_loads_it(run_copy):
    path = run_copy / "run.yaml"
    seed = RunDir.open(run_copy).read_spec().search.seed
    path.write_text(path.read_text().replace(f"seed: {seed}\n", "seed: 5\n"))
    for words in (["report", run_copy], ["try", run_copy, "a good film"], ["verify", run_copy]):
        refused(invoke(words), 2, "run.yaml has search.seed 5", f"has {seed}:")


def test_an_edited_plan_is_obeyed_as_a_file_and_refused_as_that_of_the_run(run_copy, tmp_path):
    path = run_copy / "best/plan.yaml"
    path.write_text(re.sub("(?m)^learning_rate: .*", "learning_rate: 0.001", path.read_text()))
    for words in (
        ["train", "--plan", run_copy, "--out", tmp_path / "out"],
        ["count", run_copy],
        ["export", run_copy, "--to", "native", "--out", tmp_path / "out"],
    ):
        refused(invoke(words), 2, "best/plan.yaml was edited or is of another run")
    assert invoke(["count", path]).exit_code == 0
    shutil.rmtree(run_copy / "plans")  # as in runs of autopeft 0.2.0
    assert invoke(["count", run_copy]).exit_code == 0


def test_push_refuses_scores_and_plan_that_are_not_of_the_training(run_copy, tmp_path):
    folder = train_plan(run_copy, out=tmp_path / "adapter").folder
    words = ["push", folder, "someone/adapter", "--base-model", "a/base", "--dry-run"]
    assert invoke(words).exit_code == 0
    plan, record = folder / "plan.yaml", folder / "trained.json"
    kept = plan.read_text()
    plan.write_text(re.sub("(?m)^learning_rate: .*", "learning_rate: 0.001", kept))
    refused(invoke(words), 2, "plan.yaml was edited or is of another run")
    plan.write_text(kept)
    record.write_text(re.sub('"metric": [0-9.]+', '"metric": 0.99', record.read_text()))
    refused(invoke(words), 2, "trained.json is damaged or was edited")
