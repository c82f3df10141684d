"""Plug-ins are found by file or by entry point; the error for an unknown name lists the known ones."""

from __future__ import annotations

import pytest

from autopeft.errors import SpecError, UnknownNameError
from autopeft.plugins import Catalogue, Exporter, Method, Metric, Score, Task, discover

SOURCE = "from types import SimpleNamespace\nPLUGIN = SimpleNamespace(name={name!r})\n"
FOLDERS = {
    "methods": Method,
    "metrics": Metric,
    "tasks": Task,
    "sensitivity": Score,
    "exports": Exporter,
}


@pytest.fixture
def make_folder(tmp_path, monkeypatch):
    """A function: package name and its files -> an importable package; each test has its own folder."""

    def make(package, files):
        folder = tmp_path / package
        folder.mkdir()
        for name, text in {"__init__": "", **files}.items():
            (folder / f"{name}.py").write_text(text, encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path)
        return package

    return make


def publish(folder, group, module, name="any"):
    """Write the files that an installer leaves of a package with one plug-in in a group."""
    metadata = folder / "other_package-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: other-package\nVersion: 1.0\n", encoding="utf-8"
    )
    (metadata / "entry_points.txt").write_text(f"[{group}]\n{name} = {module}:PLUGIN\n", encoding="utf-8")


def test_plugins_are_found_by_their_file_and_private_files_and_sub_folders_hold_none(make_folder, tmp_path):
    files = {name: SOURCE.format(name=name) for name in ("tin", "bear")}
    package = make_folder("toys_private", files | {"_glue": "raise AssertionError\n"})
    (tmp_path / package / "_shared").mkdir()
    (tmp_path / package / "_shared" / "__init__.py").write_text("raise AssertionError\n", encoding="utf-8")
    assert list(discover(package)) == ["bear", "tin"]


def test_plugin_of_another_package_is_found_by_its_entry_point(make_folder, tmp_path):
    package = make_folder("toys_entry", {"tin": SOURCE.format(name="tin")})
    (tmp_path / "other_package.py").write_text(SOURCE.format(name="kite"), encoding="utf-8")
    publish(tmp_path, package, "other_package")
    assert list(discover(package)) == ["kite", "tin"]


def test_two_plugins_of_one_name_are_an_error(make_folder, tmp_path):
    package = make_folder("toys_taken", {"tin": SOURCE.format(name="tin")})
    (tmp_path / "second_tin.py").write_text(SOURCE.format(name="tin"), encoding="utf-8")
    publish(tmp_path, package, "second_tin")
    with pytest.raises(SpecError, match=r"toys_taken\.tin and second_tin:PLUGIN"):
        discover(package)


def test_error_for_an_unknown_name_has_the_known_and_the_nearest():
    with pytest.raises(UnknownNameError, match=r"known: bear, tin\..*'bear'\?"):
        Catalogue("toy", {"tin": 1, "bear": 2})["bera"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_plugin_meets_its_protocol_and_is_known_by_its_name(folder):
    plugins = discover(f"autopeft.{folder}")
    assert len(plugins) > 0
    for name, plugin in plugins.items():
        assert isinstance(plugin, FOLDERS[folder]), name
        assert plugin.name == name


def test_entry_point_that_cannot_be_imported_is_left_out_with_a_warning(make_folder, tmp_path, caplog):
    package = make_folder("toys_broken", {"tin": SOURCE.format(name="tin")})
    (tmp_path / "needs_more.py").write_text("import no_such_library\n", encoding="utf-8")
    publish(tmp_path, package, "needs_more", name="kite")
    plugins = discover(package)
    assert list(plugins) == ["tin"]
    (warning,) = caplog.messages
    assert "'kite' of other-package 1.0" in warning and "no_such_library" in warning
    with pytest.raises(SpecError, match="no_such_library"):
        plugins["kite"]


@pytest.mark.parametrize("group", [f"autopeft.{folder}" for folder in FOLDERS if folder != "exports"])
def test_entry_point_with_missing_members_is_left_out(group, tmp_path, monkeypatch, caplog):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "half_a_plugin.py").write_text(SOURCE.format(name="half"), encoding="utf-8")
    publish(tmp_path, group, "half_a_plugin", name="half")
    plugins = discover.__wrapped__(group)  # without the catalogue that is kept for the process
    assert set(plugins) == set(discover(group))
    protocol = FOLDERS[group.removeprefix("autopeft.")]
    members = {name for name in (*dir(protocol), *protocol.__annotations__) if name[0] != "_"} - {"name"}
    with pytest.raises(SpecError, match="half_a_plugin") as error:
        plugins["half"]
    assert all(member in str(error.value) for member in members)
