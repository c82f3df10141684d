"""What the README says of methods and scores is what they are, and its Python runs as it stands."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from peft import PeftModel
from readme_tables import README, filled
from transformers import AutoModelForSequenceClassification

from autopeft.store import read_plan


def test_tables_are_those_of_the_parts() -> None:
    text = README.read_text(encoding="utf-8")
    assert text == filled(text), "run: PYTHONPATH=tests python tests/repository/readme_tables.py"


def test_python_example_runs_on_a_model_and_data_of_those_names(
    model_dir: Path, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = re.search(
        r"## From Python\n\n```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL
    )
    assert example, "the README has no Python example"
    shutil.copytree(model_dir, tmp_path / "bert-base-uncased")
    shutil.copytree(data_dir, tmp_path / "reviews")
    monkeypatch.chdir(tmp_path)
    exec(compile(example[1], "README.md", "exec"), {"__name__": "__main__"})
    plan = read_plan(tmp_path / "reports" / "reviews")
    base = AutoModelForSequenceClassification.from_pretrained(model_dir, num_labels=2)
    adapted = PeftModel.from_pretrained(base, tmp_path / "trained" / "adapter", is_trainable=True)
    n_trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert n_trained == plan.plan.trainable_params + plan.head_params
