"""`train` follows what a person wrote into plan.yaml, or says that it does not."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from toys.bases import plan_of_queries
from toys.specs import run_spec
from toys.words import toy_rows

from autopeft.commands import train_plan
from autopeft.errors import SpecError
from autopeft.store import read_plan, write_plan
from autopeft.types import DataSpec


@pytest.fixture
def document(model_dir, data_dir):
    return plan_of_queries(model_dir, data_dir, max_steps=2)


def test_a_plan_without_its_dataset_is_not_trained_on_the_sample(document, data_dir, tmp_path):
    write_plan(tmp_path / "plan.yaml", replace(document, data=DataSpec()))
    with pytest.raises(SpecError, match="--data"):
        train_plan(tmp_path / "plan.yaml", out=tmp_path / "adapter")
    assert train_plan(tmp_path / "plan.yaml", run_spec(data=data_dir), out=tmp_path / "adapter")


def test_a_schedule_of_the_user_is_said_not_to_be_followed(document, tmp_path, caplog):
    write_plan(tmp_path / "plan.yaml", replace(document, schedule="constant"))
    train_plan(tmp_path / "plan.yaml", out=tmp_path / "other")
    assert "schedule" in caplog.text


def test_a_base_model_named_by_its_relative_folder_is_found_from_elsewhere(
    document, model_dir, tmp_path, monkeypatch
):
    relative = document.model.model_copy(update={"id": model_dir.name})
    write_plan(tmp_path / "plan.yaml", replace(document, model=relative))
    monkeypatch.chdir(model_dir.parent)
    train_plan(tmp_path / "plan.yaml", out=tmp_path / "adapter")
    assert read_plan(tmp_path / "adapter").model.id == str(model_dir)


def test_a_plan_is_trained_on_other_data_by_the_columns_it_names(document, tmp_path):
    """Columns with usual names mislead: `label` is another in every row."""
    texts, labels = toy_rows(120, seed=0)
    rows = {"text": "a", "label": range(120), "words": texts, "mood": labels, "who": np.arange(120) // 4}
    pd.DataFrame(rows).to_csv(tmp_path / "other.csv", index=False)
    named = {"text_columns": ("words",), "label_column": "mood", "group_column": "who", "max_examples": 60}
    of_the_hub = DataSpec(source="some/set:en", **named)
    write_plan(tmp_path / "plan.yaml", replace(document, data=of_the_hub))
    other = str(tmp_path / "other.csv")
    trained = train_plan(tmp_path / "plan.yaml", run_spec(data=other), out=tmp_path / "adapter")
    assert read_plan(trained.folder / "plan.yaml").data == DataSpec(source=other, **named)


def test_a_plan_is_trained_for_other_epochs_with_the_schedule_of_that_length(document, tmp_path):
    write_plan(tmp_path / "plan.yaml", document)
    trained = train_plan(tmp_path / "plan.yaml", run_spec(epochs=3.0), out=tmp_path / "adapter")
    task, n_steps = read_plan(trained.folder).task, trained.measurement.fidelity.train_steps
    assert (task.epochs, task.max_steps) == (3.0, None) and n_steps % 3 == 0 and n_steps > 2
    last = json.loads((trained.folder / "curve.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    n_warmup = max(1, round(0.06 * n_steps))
    assert last["step"] == n_steps
    assert last["learning_rate"] == pytest.approx(document.plan.learning_rate / (n_steps - n_warmup + 1))
    again = train_plan(trained.folder, out=tmp_path / "again")  # its plan has the new length
    weights = "adapter_model.safetensors"
    assert (again.folder / weights).read_bytes() == (trained.folder / weights).read_bytes()
