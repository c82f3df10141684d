"""Files of a run that were deleted or moved by hand: one sentence says what to do."""

from __future__ import annotations

import shutil

import pytest

from autopeft import commands
from autopeft.errors import RunDirError
from autopeft.store import RunDir
from autopeft.types import RunSpec


def test_verify_says_how_deleted_weights_of_a_run_are_written_again(run_copy):
    shutil.rmtree(run_copy / "best" / "weights")
    with pytest.raises(RunDirError, match="no best/weights") as caught:
        commands.verify(run_copy)
    assert f"write them again with: autopeft search --resume --out {run_copy}" in str(caught.value)


def test_an_export_without_weights_does_not_say_that_the_plan_was_never_trained(run_copy, tmp_path):
    shutil.rmtree(run_copy / "best" / "weights")
    written = commands.export(run_copy, "native", tmp_path / "out")
    assert any("no weights" in note and "deleted" in note for note in written.notes)


def test_a_run_without_its_run_yaml_is_told_apart_from_another_folder(tmp_path):
    with RunDir.create(tmp_path / "run", resume=False) as run:
        run.write_spec(RunSpec())
        (run.state).mkdir(exist_ok=True)
        (run.state / "state.json").write_text("{}")
        (run.path / "report.md").write_text("")
    (tmp_path / "run" / "run.yaml").unlink()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("")
    with pytest.raises(RunDirError, match=r"no run\.yaml\. It was removed: put it back"):
        RunDir.create(tmp_path / "run", resume=True)
    with pytest.raises(RunDirError, match=r"no run\.yaml\. Pass what --out was"):
        RunDir.create(tmp_path / "other", resume=True)
