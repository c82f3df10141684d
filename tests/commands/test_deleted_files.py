"""Files of a run that were deleted or moved by hand: one sentence says what to do."""

from __future__ import annotations

import shutil

import pytest

from autopeft import commands
from autopeft.errors import RunDirError


def test_verify_says_how_deleted_weights_of_a_run_are_written_again(run_copy):
    shutil.rmtree(run_copy / "best" / "weights")
    with pytest.raises(RunDirError, match="no best/weights") as caught:
        commands.verify(run_copy)
    assert f"write them with: autopeft search --resume --out {run_copy}" in str(caught.value)


def test_an_export_without_weights_does_not_say_that_the_plan_was_never_trained(run_copy, tmp_path):
    shutil.rmtree(run_copy / "best" / "weights")
    written = commands.export(run_copy, "native", tmp_path / "out")
    assert any("no weights" in note and "deleted" in note for note in written.notes)
