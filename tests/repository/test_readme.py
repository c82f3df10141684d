"""What the README says of methods and scores is what they are, and its Python runs as it stands."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from peft import PeftModel
from readme_tables import README, filled
from transformers import AutoModelForSequenceClassification

from autopeft.store import read_plan


def test_tables_are_those_of_the_parts() -> None:
    text = README.read_text(encoding="utf-8")
    assert text == filled(text), "run: PYTHONPATH=tests python tests/repository/readme_tables.py"


def test_python_example_runs_on_a_model_and_data_of_those_names(
    model_dir: Path, data_dir: Path, tmp_path: Path
) -> None:
    found = re.search(r"## From Python\n\n```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert found, "the README has no Python example"
    shutil.copytree(model_dir, tmp_path / "bert-base-uncased")
    shutil.copytree(data_dir, tmp_path / "reviews")
    done = subprocess.run(
        [sys.executable, "-c", found[1]],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(README.parent), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    plan = read_plan(tmp_path / "reports" / "reviews")
    base = AutoModelForSequenceClassification.from_pretrained(model_dir, num_labels=2)
    adapted = PeftModel.from_pretrained(base, tmp_path / "trained" / "adapter", is_trainable=True)
    n_trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert n_trained == plan.plan.trainable_params + plan.head_params
