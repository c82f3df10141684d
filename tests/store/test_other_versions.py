"""A run of another version is read, or a sentence names both versions and nothing in its folder changes."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from autopeft import commands
from autopeft.errors import RunDirError, SpecError
from autopeft.run.progress import Lines
from autopeft.run.reporting import render
from autopeft.store import STATE, RunDir, read_checked, read_plan, write_checked
from autopeft.types import VERSION, RunSpec


@pytest.fixture
def folder(run_copy):
    """A finished run that says that version 0.2.0 made it."""
    set_version(run_copy, "0.2.0")
    return run_copy


def set_version(folder: Path, version: str) -> None:
    path = folder / "state" / STATE
    content = read_checked(path, remedy="")
    write_checked(path, content | {"start": content["start"] | {"autopeft": version}})


def with_version(folder: Path, version: str) -> RunDir:
    set_version(folder, version)
    return RunDir.open(folder)


def edit_result(folder: Path, change) -> None:
    path = folder / "state/search_result.json"
    content = read_checked(path, remedy="")
    change(content)
    write_checked(path, content)


def set_dtype(folder: Path, dtype: str) -> None:
    path = folder / "run.yaml"
    path.write_text(re.sub(r"dtype: \w+", f"dtype: {dtype}", path.read_text()))


def files_of(folder: Path) -> dict[str, str]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def test_the_version_of_a_run_is_read(folder):
    assert RunDir.open(folder).version == "0.2.0"


def test_an_unfinished_run_of_another_version_is_not_told_to_go_on(folder):
    (folder / "state/search_result.json").unlink()
    with pytest.raises(RunDirError, match=r"measured by autopeft 0\.2\.0, and this is .* run\.yaml"):
        RunDir.open(folder).load_result()
    with pytest.raises(RunDirError, match=r"has not finished; go on with `.*--resume"):
        with_version(folder, VERSION).load_result()


def test_a_run_of_another_version_is_not_resumed_and_stays_as_it_was(folder):
    set_version(folder, "0.1.0")
    before = files_of(folder)
    spec = RunSpec().model_copy(update={"output": RunSpec().output.model_copy(update={"out": str(folder)})})
    with pytest.raises(RunDirError, match=rf"measured by autopeft 0\.1\.0, and this is {re.escape(VERSION)}"):
        commands.run_search(spec, explicit=frozenset({"output.out"}), resume=True, progress=Lines())
    assert files_of(folder) == before


def test_a_newer_run_is_not_rendered_with_what_this_version_knows_of_it(folder):
    set_version(folder, "999.1")
    edit_result(folder, lambda content: content.update(grams=3.0))
    before = files_of(folder)
    with pytest.raises(RunDirError, match=r"a run of autopeft 999\.1, which .* cannot read: .* newer"):
        render(folder)
    assert files_of(folder) == before


def test_values_that_are_gone_are_named_with_the_version_that_had_them(folder):
    set_dtype(folder, "float64")
    with pytest.raises(SpecError, match=r"^\S*run\.yaml cannot be used: execution\.dtype is 'float64'"):
        with_version(folder, VERSION).read_spec()
    sentence = r"run of autopeft 0\.1\.0, .*execution\.dtype is 'float64'; it should be .*with that version"
    with pytest.raises(RunDirError, match=sentence):
        with_version(folder, "0.1.0").read_spec()


def test_a_result_that_another_version_wrote_is_not_called_damaged(folder):
    edit_result(folder, lambda content: content.pop("verdict"))
    with pytest.raises(RunDirError, match="it is damaged or was edited"):
        with_version(folder, VERSION).load_result()
    with pytest.raises(
        RunDirError, match=r"a run of autopeft 0\.2\.0, .* has other keys or values.* use its best/plan\.yaml"
    ) as caught:
        with_version(folder, "0.2.0").load_result()
    assert "damaged" not in str(caught.value)


def test_weights_are_exported_whatever_the_settings_of_their_run(folder, tmp_path):
    set_version(folder, "0.1.0")
    set_dtype(folder, "float64")
    weights = folder / "best/weights"
    written = commands.export(weights, "native", tmp_path / "out")
    assert "adapter_model.safetensors" in written.files


def test_a_plan_of_a_newer_form_asks_for_an_update_and_one_without_a_form_does_not(folder):
    path = folder / "best/plan.yaml"
    text = path.read_text()
    path.write_text(text.replace("schema_version: 1", "schema_version: 2"))
    with pytest.raises(SpecError, match=r"has schema_version 2; .* reads schema_version 1; .*update this"):
        read_plan(path)
    path.write_text(text.replace("schema_version: 1", "schema_version: old"))
    with pytest.raises(SpecError, match=r"has schema_version 'old'; .* reads schema_version 1\.$"):
        read_plan(path)
