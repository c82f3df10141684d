"""Weights that a full run kept: missing ones are trained again, damaged ones are refused."""

from __future__ import annotations

import json
import shutil

import pytest
from toys.reading import rows_of
from toys.specs import run_spec

from autopeft import commands
from autopeft.errors import SpecError
from autopeft.report.progress import Lines


def kept_of_best(run):
    """The folder of weights that the first full run of the best plan kept."""
    training = json.loads((run / "best/judged/training.json").read_text())
    return run / "state/weights" / f"{training['plan_id']}-{training['seed']}"


def test_missing_weights_are_trained_again_on_resume(run_copy, finished, caplog):
    weights = kept_of_best(run_copy)
    before = (weights / "adapter_model.safetensors").read_bytes()
    # Stopped before the test split was read.
    log = run_copy / "state/measurements.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(line for line in lines if '"split": "test"' not in line))
    shutil.rmtree(run_copy / "best")
    shutil.rmtree(weights)
    commands.run_search(run_spec(out=run_copy), resume=True, progress=Lines())
    assert "trained again" in caplog.text
    assert (weights / "adapter_model.safetensors").read_bytes() == before
    assert (run_copy / "best/judged/adapter_model.safetensors").read_bytes() == before
    assert rows_of(run_copy) == rows_of(finished)


@pytest.mark.parametrize("order", ['["../other"]', '["/tmp"]', '["."]', '["a/b"]', '[".."]'])
def test_an_order_cannot_name_a_folder_elsewhere(tmp_path, order):
    (tmp_path / "order.json").write_text(order)
    with pytest.raises(SpecError, match=r"order\.json has"):
        commands.count(tmp_path, model_id="none")
