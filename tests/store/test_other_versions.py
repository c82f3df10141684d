"""A run of another version is read, or an error names that version and nothing in its folder changes."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
from toys.specs import run_spec

from autopeft import commands
from autopeft.errors import RunDirError, SpecError
from autopeft.run.progress import Lines
from autopeft.store import STATE, RunDir, read_plan
from autopeft.types import VERSION


@pytest.fixture
def folder(run_copy):
    """A finished run that says that version 0.2.0 made it."""
    set_version(run_copy, "0.2.0")
    return run_copy


def edit(path: Path, change) -> None:
    content = json.loads(path.read_bytes())
    change(content)
    path.write_text(json.dumps(content))


def set_version(folder: Path, version: str) -> None:
    edit(folder / "state" / STATE, lambda state: state["start"].update(autopeft=version))


def files_of(folder: Path) -> dict[str, str]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def test_the_version_of_a_run_is_read(folder):
    assert RunDir.open(folder).version == "0.2.0"


def test_an_unfinished_run_says_how_it_can_be_finished(folder):
    (folder / "state/search_result.json").unlink()
    with pytest.raises(RunDirError, match=r"measured by autopeft 0\.2\.0"):
        RunDir.open(folder).load_result()
    set_version(folder, VERSION)
    with pytest.raises(RunDirError, match="--resume"):
        RunDir.open(folder).load_result()


def test_a_run_of_another_version_is_not_resumed_and_stays_as_it_was(folder):
    before = files_of(folder)
    with pytest.raises(RunDirError, match=r"measured by autopeft 0\.2\.0"):
        commands.run_search(run_spec(out=folder), resume=True, progress=Lines())
    assert files_of(folder) == before


def test_a_result_that_this_version_cannot_read_names_the_one_that_wrote_it(folder):
    edit(folder / "state/search_result.json", lambda result: result.pop("verdict"))
    with pytest.raises(RunDirError, match=r"autopeft 0\.2\.0"):
        RunDir.open(folder).load_result()


def test_weights_are_exported_whatever_the_settings_of_their_run(folder, tmp_path):
    path = folder / "run.yaml"
    path.write_text(re.sub(r"dtype: \w+", "dtype: float64", path.read_text()))
    written = commands.export(folder / "best/weights", "native", tmp_path / "out")
    assert "adapter_model.safetensors" in written.files


def test_a_plan_of_a_newer_form_asks_for_an_update(folder):
    path = folder / "best/plan.yaml"
    path.write_text(path.read_text().replace("schema_version: 1", "schema_version: 2"))
    with pytest.raises(SpecError, match="update"):
        read_plan(path)
