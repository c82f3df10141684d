"""`doctor`: what fails has a remedy, what is left out is a note, and nothing is left behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from autopeft.cli.app import app
from autopeft.commands import doctor
from autopeft.plugins import Catalogue

REQUIREMENTS = [
    "torch>=2.4",
    "peft<0.22,>=0.19",
    'never; python_version < "3"',
    'bitsandbytes>=0.45; extra == "quantize"',
    'ray; extra == "ray"',
]


def checks_of(**versions):
    return {check.name: check for check in doctor.package_checks(REQUIREMENTS, versions.get)}


def test_packages_that_are_there_are_ok_with_their_versions():
    checks = checks_of(torch="2.13.0+cpu", peft="0.21.2", bitsandbytes="0.50.2", ray="2.9")
    assert {check.status for check in checks.values()} == {"ok"}
    assert checks["torch"].value == "2.13.0+cpu"
    assert "never" not in checks


def test_old_or_absent_package_fails_with_the_command_that_cures_it():
    checks = checks_of(peft="0.12.0")
    assert (checks["torch"].status, checks["torch"].value) == ("fail", "not installed")
    assert checks["peft"].status == "fail"
    assert "0.12.0" in checks["peft"].value
    assert checks["peft"].remedy == 'pip install -U "peft<0.22,>=0.19"'


def test_absent_extra_is_a_note_that_names_it():
    extra = checks_of(torch="2.4", peft="0.20", ray="2.9")["extra quantize"]
    assert (extra.status, extra.value) == ("note", "lacks bitsandbytes")
    assert extra.remedy == "pip install bitsandbytes"


def test_part_of_another_package_that_cannot_be_used_is_a_note_with_its_cause():
    said = "The toy 'kite' of other 1.0 (kite:PLUGIN) lacks cost of extension.Toy. Update or uninstall other."
    catalogues = [Catalogue("toy", {"tin": 1}), Catalogue("toy", {}, {"kite": said})]
    (check,) = doctor.part_checks(catalogues)
    assert (check.name, check.status) == ("part kite", "note")
    assert f"{check.value}. {check.remedy}." == said
    assert check.remedy == "Update or uninstall other"


def test_folder_is_written_to_and_left_as_it_was(tmp_path):
    check = doctor.write_check(tmp_path / "reports" / "run")
    assert check.status == "ok"
    assert list(tmp_path.iterdir()) == []


def test_folder_that_takes_no_file_fails(tmp_path):
    place = tmp_path / "file"
    place.write_text("no folder")
    check = doctor.write_check(place)
    assert check.status == "fail"
    assert "--out" in check.remedy


def refuse():
    raise OSError("no route to host")


def never():
    raise AssertionError("the hub was asked")


def test_hub_is_asked_unless_the_user_works_offline():
    assert doctor.hub_check(is_offline=True, reach=never).status == "note"
    silent = doctor.hub_check(is_offline=False, reach=refuse)
    assert (silent.status, "no route to host" in silent.value) == ("note", True)
    assert doctor.hub_check(is_offline=False, reach=lambda: None).status == "ok"


@pytest.mark.parametrize("address", ["hub.example", "https://[::1"])
def test_an_address_of_the_hub_that_is_none_is_a_note(address, monkeypatch):
    monkeypatch.setattr(doctor.constants, "ENDPOINT", address)
    check = doctor.hub_check(is_offline=False, reach=doctor._reach_hub)
    assert (check.status, "does not answer" in check.value) == ("note", True)


def test_a_drive_that_is_absent_fails_with_a_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "exists", lambda path: False)
    check = doctor.write_check(tmp_path / "no" / "runs")
    assert (check.status, "--out" in check.remedy) == ("fail", True)


def test_more_threads_than_a_container_runs_are_noted_with_their_number():
    check = doctor.thread_check(64, cores=1.5)
    assert (check.status, check.remedy) == ("note", "set OMP_NUM_THREADS=2")
    assert doctor.thread_check(2, cores=1.5).status == doctor.thread_check(64, cores=None).status == "ok"
    assert "64" in check.value and "1.5" in check.value


@pytest.mark.parametrize(
    ("names", "like_first", "value"),
    [
        ([], 0, "0 visible"),
        (["H100"], 1, "1 visible (H100)"),
        (["H100"] * 8, 8, "8 visible (H100); a search uses one, with --executor process 8"),
        (["H100", "T400"], 1, "2 visible (H100, T400)"),
    ],
)
def test_gpus_are_counted(names, like_first, value):
    check = doctor.gpu_check(names, like_first=like_first)
    assert (check.status, check.value) == ("ok", value)


def test_command_prints_checks_and_exits_with_1_where_one_fails(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["doctor", "--json"])
    content = json.loads(done.stdout)
    names = [check["name"] for check in content["checks"]]
    for name in (
        "autopeft",
        "torch",
        "peft",
        "device",
        "GPUs",
        "free memory",
        "threads",
        "run folder",
        "hub",
    ):
        assert name in names
    statuses = {check["status"] for check in content["checks"]}
    assert done.exit_code == (1 if "fail" in statuses else 0)
    assert content["ok"] is (done.exit_code == 0)
    assert all(check["remedy"] for check in content["checks"] if check["status"] == "fail")
