"""Parts are found by file or by entry point; an unknown name is answered with the known ones."""

from __future__ import annotations

import pytest

from autopeft.errors import SpecError, UnknownNameError
from autopeft.plugins import Catalogue, Exporter, Method, Metric, Score, Task, discover

PLUGIN = "from types import SimpleNamespace\nPART = SimpleNamespace(name={name!r})\n"
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
    """Write the files that an installer leaves of a package with one part in a group."""
    metadata = folder / "other_package-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: other-package\nVersion: 1.0\n", encoding="utf-8"
    )
    (metadata / "entry_points.txt").write_text(f"[{group}]\n{name} = {module}:PLUGIN\n", encoding="utf-8")


def test_part_is_found_by_its_file_alone(make_folder):
    package = make_folder(
        "toys_by_file", {"tin": PLUGIN.format(name="tin"), "bear": PLUGIN.format(name="bear")}
    )
    assert list(discover(package)) == ["bear", "tin"]


def test_file_with_an_underscore_is_no_part(make_folder):
    package = make_folder(
        "toys_private", {"tin": PLUGIN.format(name="tin"), "_glue": "raise AssertionError\n"}
    )
    assert list(discover(package)) == ["tin"]


def test_part_of_another_package_is_found_by_its_entry_point(make_folder, tmp_path):
    package = make_folder("toys_entry", {"tin": PLUGIN.format(name="tin")})
    (tmp_path / "other_package.py").write_text(PLUGIN.format(name="kite"), encoding="utf-8")
    publish(tmp_path, package, "other_package")
    assert list(discover(package)) == ["kite", "tin"]
    assert discover(package)["kite"].name == "kite"


def test_sub_folder_holds_no_part(make_folder, tmp_path):
    package = make_folder("toys_nested", {"tin": PLUGIN.format(name="tin")})
    (tmp_path / package / "_shared").mkdir()
    (tmp_path / package / "_shared" / "__init__.py").write_text("raise AssertionError\n", encoding="utf-8")
    assert list(discover(package)) == ["tin"]


def test_entry_point_that_takes_the_name_of_a_known_part_is_an_error_that_names_both(make_folder, tmp_path):
    package = make_folder("toys_taken", {"tin": PLUGIN.format(name="tin")})
    (tmp_path / "second_tin.py").write_text(PLUGIN.format(name="tin"), encoding="utf-8")
    publish(tmp_path, package, "second_tin")
    message = "of second_tin:PLUGIN has the name 'tin', which the toys_taken of toys_taken.tin has already"
    with pytest.raises(SpecError, match=message):
        discover(package)


def test_two_files_of_one_name_are_an_error_that_names_both(make_folder):
    package = make_folder(
        "toys_double", {"bear": PLUGIN.format(name="tin"), "tin": PLUGIN.format(name="tin")}
    )
    with pytest.raises(SpecError, match=r"toys_double\.tin has the name 'tin', .* of toys_double\.bear has"):
        discover(package)


def test_entry_point_of_another_group_is_left_alone(make_folder, tmp_path):
    package = make_folder("toys_group", {"tin": PLUGIN.format(name="tin")})
    publish(tmp_path, "someone.elses.group", "no_such_module")
    assert list(discover(package)) == ["tin"]


def test_unknown_name_is_answered_with_the_known_and_the_nearest(make_folder):
    parts = discover(
        make_folder("toys_near", {"tin": PLUGIN.format(name="tin"), "bear": PLUGIN.format(name="bear")})
    )
    with pytest.raises(UnknownNameError, match=r"named 'bera'; known: bear, tin\. Did you mean 'bear'\?"):
        parts["bera"]


def test_name_near_to_nothing_gets_no_guess():
    with pytest.raises(UnknownNameError, match=r"no toy named 'xylophone'; known: bear, tin\.$"):
        Catalogue("toy", {"tin": 1, "bear": 2})["xylophone"]


def test_a_name_that_goes_on_is_nearer_than_one_that_is_shorter():
    with pytest.raises(UnknownNameError, match=r"Did you mean 'a100-40gb'\?"):
        Catalogue("device", {"a10": 1, "a100-40gb": 2})["a100"]


def test_a_catalogue_without_parts_says_so():
    with pytest.raises(UnknownNameError, match=r"known: none\.$"):
        Catalogue("toy", {})["bear"]


@pytest.mark.parametrize(
    ("folder", "noun"),
    [("methods", "method"), ("tasks", "task"), ("sensitivity", "score"), ("exports", "export")],
)
def test_error_names_the_kind_of_part(folder, noun):
    with pytest.raises(UnknownNameError, match=f"There is no {noun} named 'nothing like it'"):
        discover(f"autopeft.{folder}")["nothing like it"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_part_meets_its_protocol_and_is_known_by_its_name(folder):
    parts = discover(f"autopeft.{folder}")
    assert len(parts) > 0
    for name, part in parts.items():
        assert isinstance(part, FOLDERS[folder]), name
        assert part.name == name


def test_object_that_lacks_a_member_does_not_meet_a_protocol():
    assert not isinstance(Catalogue("toy", {}), Method)


def discover_anew(group):
    return discover.__wrapped__(group)  # without the catalogue that is kept for the process


def test_entry_point_that_cannot_be_imported_is_left_out_with_a_warning_that_names_it(
    make_folder, tmp_path, caplog
):
    package = make_folder("toys_broken", {"tin": PLUGIN.format(name="tin")})
    (tmp_path / "needs_more.py").write_text("import no_such_library\n", encoding="utf-8")
    publish(tmp_path, package, "needs_more", name="kite")
    parts = discover(package)
    assert list(parts) == ["tin"]
    (said,) = caplog.messages
    for word in (
        "'kite'",
        "other-package 1.0",
        "needs_more:PLUGIN",
        "ModuleNotFoundError",
        "no_such_library",
    ):
        assert word in said
    with pytest.raises(SpecError, match=r"'kite' of other-package 1\.0 .*no_such_library"):
        parts["kite"]
    with pytest.raises(UnknownNameError, match=r"known: tin"):
        parts["xylophone"]


def test_a_format_of_another_package_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "a_format.py").write_text(PLUGIN.format(name="a_format"), encoding="utf-8")
    publish(tmp_path, "autopeft.exports", "a_format")
    assert set(discover_anew("autopeft.exports")) == set(discover("autopeft.exports"))


@pytest.mark.parametrize("group", [f"autopeft.{folder}" for folder in FOLDERS if folder != "exports"])
def test_entry_point_whose_part_lacks_members_is_left_out_and_they_are_named(
    group, tmp_path, monkeypatch, caplog
):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "half_a_part.py").write_text(PLUGIN.format(name="half"), encoding="utf-8")
    publish(tmp_path, group, "half_a_part", name="half")
    usable = set(discover(group))
    parts = discover_anew(group)
    assert set(parts) == usable
    (said,) = caplog.messages
    with pytest.raises(SpecError, match=r"'half' of other-package 1\.0 \(half_a_part:PLUGIN\) lacks "):
        parts["half"]
    protocol = FOLDERS[group.removeprefix("autopeft.")]
    members = [name for name in dir(protocol) if name[0] != "_"] + list(protocol.__annotations__)
    assert set(said.split(" lacks ")[1].split(" of ")[0].split(", ")) == set(members) - {"name"}


def test_entry_point_that_is_a_class_is_left_out(make_folder, tmp_path, caplog):
    package = make_folder("toys_class", {"tin": PLUGIN.format(name="tin")})
    (tmp_path / "a_class.py").write_text("class PLUGIN:\n    name = 'kite'\n", encoding="utf-8")
    publish(tmp_path, package, "a_class")
    assert list(discover(package)) == ["tin"]
    assert "is a class" in caplog.text
