"""A package that the settings, the model's file or its config ask for is missed before the data are read."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from autopeft.errors import DataError, ModelError
from autopeft.setup.build import prepare
from autopeft.types import DataSpec, ModelSpec, RunSpec

GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128}


def spec_of(folder: Path, **model: Any) -> RunSpec:
    return RunSpec(model=ModelSpec(**model), data=DataSpec(source=str(folder / "absent.csv")))


@pytest.mark.parametrize(
    ("package", "model"),
    [("bitsandbytes", {"quantize": "4bit"}), ("gguf", {"id": "models/tiny.gguf"})],
)
def test_missing_packages_are_reported_before_the_data_are_read(
    package: str,
    model: dict[str, str],
    model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = spec_of(tmp_path, **{"id": str(model_dir), **model})
    with pytest.raises(DataError, match="absent"):
        prepare(spec)
    monkeypatch.setitem(sys.modules, package, None)  # as where it is not installed
    with pytest.raises(ModelError, match=rf"pip install {package}\."):
        prepare(spec)


def with_quantization(tiny_llama: Path, folder: Path, settings: object) -> Path:
    content = json.loads((tiny_llama / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**content, "quantization_config": settings}))
    return folder


def test_a_quantized_checkpoint_is_not_quantized_again(tiny_llama: Path, tmp_path: Path) -> None:
    folder = with_quantization(tiny_llama, tmp_path, GPTQ)
    with pytest.raises(ModelError, match="quantized already"):
        prepare(spec_of(tmp_path, id=str(folder), quantize="4bit"))
