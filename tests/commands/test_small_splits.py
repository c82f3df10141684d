"""A confirm split of one row is refused before anything is trained, since nothing can be compared on it."""

from __future__ import annotations

import shutil

import pytest
from toys.specs import run_spec

from autopeft import commands
from autopeft.errors import DataError
from autopeft.report.progress import Lines


def test_a_validation_file_of_one_row_is_refused_before_training(model_dir, data_dir, tmp_path):
    path = shutil.copytree(data_dir, tmp_path / "rows") / "validation.csv"
    path.write_text("".join(path.read_text(encoding="utf-8").splitlines(keepends=True)[:2]), encoding="utf-8")
    spec = run_spec(model_dir, tmp_path / "rows", out=tmp_path / "run", max_steps=4, trials=2, budget="5%")
    with pytest.raises(DataError, match="1 example"):
        commands.run_search(spec, progress=Lines())
    assert not (tmp_path / "run").exists()
