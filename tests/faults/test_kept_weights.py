"""Weights that a full run kept: damage is noticed, and the damaged ones are trained again."""

from __future__ import annotations

import csv
import json
import shutil

import pytest
from safetensors.numpy import load_file, save_file
from toys.specs import run_spec

from autopeft import commands
from autopeft.errors import SpecError
from autopeft.run.progress import Lines


def emptied(path):
    path.write_bytes(b"")


def torn(path):
    path.write_bytes(path.read_bytes()[:-7])


def flipped(path):
    """One bit of the last number."""
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)


def retrained(path):
    """Other numbers in a whole file, as another run would write."""
    save_file({name: 2 * array for name, array in load_file(path).items()}, path)


def removed(path):
    path.unlink()


DAMAGES = [
    flipped,
    removed,
    *(pytest.param(each, marks=pytest.mark.nightly) for each in (emptied, torn, retrained)),
]


def kept_of_best(run):
    """The file of weights that the first full run of the best plan kept."""
    training = json.loads((run / "best/weights/training.json").read_text())
    return run / "state/weights" / f"{training['plan_id']}-{training['seed']}" / "adapter_model.safetensors"


def held_out_scores(run):
    """Metric of each plan and seed on the confirm and test splits."""
    with (run / "trials.csv").open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["split"] in ("confirm", "test")]
    return sorted((row["plan_id"], row["split"], row["seed"], row["metric"]) for row in rows)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_weights_are_trained_again_on_resume(run_copy, finished, damage, caplog):
    weights = kept_of_best(run_copy)
    before = weights.read_bytes()
    # Stopped before the test split was read.
    log = run_copy / "state/measurements.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(line for line in lines if '"split": "test"' not in line))
    shutil.rmtree(run_copy / "best")
    damage(weights)
    commands.run_search(run_spec(out=run_copy), resume=True, progress=Lines())
    assert "are missing or damaged; they are trained again" in caplog.text
    assert weights.read_bytes() == before
    assert (run_copy / "best/judged/adapter_model.safetensors").read_bytes() == before
    assert held_out_scores(run_copy) == held_out_scores(finished)


@pytest.mark.parametrize("order", ['["../other"]', '["/tmp"]', '["."]', '["a/b"]'])
def test_an_order_cannot_name_a_folder_elsewhere(tmp_path, order):
    (tmp_path / "order.json").write_text(order)
    with pytest.raises(SpecError, match="should list the names of the folders beside it"):
        commands.count(tmp_path, model_id="none")
