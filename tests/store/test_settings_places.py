"""Settings from one place as from another: paths for any folder, times, and faults with their place."""

from __future__ import annotations

from pathlib import Path

import pytest

from autopeft.store import resolve_settings, whole_path


def resolved(flags=None, *, env=None, config=None, assign=()):
    return resolve_settings(config=config, env=env or {}, flags=flags or {}, assignments=assign)[0]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a space, a run, and a folder that is called like a space of autopeft."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    for name in ("run", "default"):
        Path(name).mkdir()
    Path("mine.yaml").touch()
    return tmp_path


@pytest.mark.parametrize("prefix", ["", "./", "~/"])
def test_paths_of_space_and_baseline_serve_in_any_folder(here, prefix):
    names = {"search.space": "mine.yaml", "search.baseline": "run"}
    search = resolved({name: prefix + value for name, value in names.items()}).search
    assert search.space == str(here / "mine.yaml")
    assert search.baseline == str(here / "run")


def test_a_shipped_space_stays_a_name_next_to_a_folder_of_this_name(here):
    assert whole_path("default") == str(here / "default")
    assert resolved({"search.space": "default"}).search.space == "default"


def test_the_folder_to_write_to_may_lie_at_home(here):
    assert resolved({"output.out": "~/new"}).output.out == str(here / "new")
    assert resolved(env={"AUTOPEFT_OUTPUT_OUT": "~/new"}).output.out == str(here / "new")
    assert resolved({"output.out": "new"}).output.out == "new"  # a run may be moved


def test_no_list_is_an_empty_list(tmp_path):
    config = tmp_path / "conf.yaml"
    config.write_text("search: {methods: null}")
    assert resolved(assign=["search.methods=null"]).search.methods == ()
    assert resolved(config=config).search.methods == ()
