"""What other systems ask of files and commands, tried here as far as that goes."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from autopeft.errors import RunDirError
from autopeft.store import replaced_folder
from autopeft.types import RunSpec, TaskSpec, commands


@pytest.mark.parametrize("word", ["reports\\x-2026", "C:\\my runs\\a", "plain", 'say "hi"'])
def test_words_of_commands_are_quoted_as_the_system_s_shell_reads_them(word, monkeypatch):
    assert shlex.split(commands.quoted(word)) == [word]
    monkeypatch.setattr(commands, "_IS_WINDOWS", True)
    assert commands.quoted(word) == subprocess.list2cmdline([word])
    assert "'" not in commands.quoted(word)


def test_the_resume_command_names_what_runs_only_if_the_user_names_it():
    def command(metric):
        task = TaskSpec(name="text-generation", metric=metric)
        return commands.resume_command(RunSpec(task=task), Path("a"))

    assert command("exact-match") == "autopeft search --resume --out a"
    assert command("mine:score") == "autopeft search --resume --out a --metric mine:score"


def test_a_best_folder_that_is_open_stays_whole(tmp_path, monkeypatch):
    folder = tmp_path / "best"
    folder.mkdir()
    (folder / "plan.yaml").write_text("old")
    rename = Path.rename

    def refuse(path, target):
        raise PermissionError(13, "in use")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(RunDirError, match="best cannot be written"), replaced_folder(folder) as fresh:
        (fresh / "plan.yaml").write_text("new")
    assert (folder / "plan.yaml").read_text() == "old"
    monkeypatch.setattr(Path, "rename", rename)
    with replaced_folder(folder) as fresh:
        (fresh / "plan.yaml").write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["best"]
    assert (folder / "plan.yaml").read_text() == "new"
