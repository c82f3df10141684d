"""A run directory that version 0.2.0 wrote: later versions read its measurements and export its plan."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from autopeft import commands
from autopeft.store import RunDir, seal_of

KEPT = sorted((Path(__file__).parent / "kept").glob("run-*.tar.gz"))


@pytest.fixture(params=KEPT, ids=lambda path: path.name.removesuffix(".tar.gz"))
def kept(request, tmp_path):
    with tarfile.open(request.param) as archive:
        archive.extractall(tmp_path / "run", filter="data")
    return tmp_path / "run"


def test_its_measurements_are_read_and_its_weights_are_those_that_were_measured(kept):
    run = RunDir.open(kept)
    entries = run.measurements.load_sealed()
    lines = (kept / "state/measurements.jsonl").read_text().splitlines()
    assert len(entries) == len(lines) > 10
    confirmed = [(m, seal) for m, seal, _ in entries if m.fidelity.split == "confirm"]
    assert len(confirmed) >= 2
    assert all(seal_of(run.weights(m.plan, m.fidelity.seed)) == seal is not None for m, seal in confirmed)


def test_its_plan_is_exported(kept, tmp_path):
    written = commands.export(kept, "native", tmp_path / "out")
    assert "adapter_model.safetensors" in written.files
