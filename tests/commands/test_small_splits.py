"""Splits of one row are refused before anything is trained, since nothing can be compared on them."""

from __future__ import annotations

from pathlib import Path

import pytest
from toys.specs import run_spec

from autopeft import commands
from autopeft.errors import DataError
from autopeft.report.progress import Lines
from autopeft.types import RunSpec


@pytest.fixture
def one_row(model_dir: Path, data_dir: Path, tmp_path: Path) -> RunSpec:
    """A run on a folder whose validation file has one row."""
    for name in ("train", "validation"):
        lines = (data_dir / f"{name}.csv").read_text(encoding="utf-8").splitlines(keepends=True)
        kept = lines if name == "train" else lines[:2]
        (tmp_path / "rows").mkdir(exist_ok=True)
        (tmp_path / "rows" / f"{name}.csv").write_text("".join(kept), encoding="utf-8")
    return run_spec(model_dir, tmp_path / "rows", out=tmp_path / "run", max_steps=4, trials=2, budget="5%")


def test_a_validation_file_of_one_row_is_refused_before_training(one_row: RunSpec) -> None:
    words = "The confirm split has 1 example"
    with pytest.raises(DataError, match=words):
        commands.preview(one_row)
    with pytest.raises(DataError, match=words):
        commands.run_search(one_row, progress=Lines())
    assert not Path(str(one_row.output.out)).exists(), "nothing was measured"
