"""A package that the settings or the model's file ask for is missed before the data are read."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from autopeft.errors import DataError, ModelError
from autopeft.pipeline.prepare import prepare
from autopeft.records import DataSpec, ModelSpec, RunSpec


@pytest.mark.parametrize(
    ("package", "model", "extra"),
    [
        ("bitsandbytes", {"id": "org/model", "quantize": "4bit"}, "quantize"),
        ("gguf", {"id": "models/tiny.gguf"}, "gguf"),
    ],
)
def test_missing_packages_are_told_before_the_data_are_read(
    package: str, model: dict[str, str], extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = RunSpec(model=ModelSpec(**model), data=DataSpec(source=str(tmp_path / "absent.csv")))
    with pytest.raises(DataError, match="absent"):
        prepare(spec)
    monkeypatch.setitem(sys.modules, package, None)  # as where it is not installed
    with pytest.raises(ModelError, match=rf'pip install "autopeft\[{extra}\]"'):
        prepare(spec)
