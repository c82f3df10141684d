"""Every file that a run leaves, damaged: a command says so in a sentence, or gives what it gave before."""

from __future__ import annotations

import re
import shutil

import pytest
from toys.reading import rows_of
from typer.testing import CliRunner

from autopeft.cli.app import app

FILES = (
    "run.yaml study.sqlite state/state.json plans/*.yaml "
    "state/measurements.jsonl state/search_result.json state/weights/*/adapter_model.safetensors "
    "state/weights/*/adapter_config.json state/weights/*/checksums.json best/plan.yaml "
    "best/adapters/adapter_config.json best/weights/adapter_model.safetensors "
    "best/weights/adapter_config.json best/weights/checksums.json state/weights/*-all-rows.json trials.csv "
    "result.json"
).split()


def emptied(path):
    path.write_bytes(b"")


def torn(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def edited(path):
    """The last digit of the file is another one."""
    content = path.read_bytes()
    place = max(match.start() for match in re.finditer(rb"\d", content))
    digit = b"7" if content[place : place + 1] != b"7" else b"3"
    path.write_bytes(content[:place] + digit + content[place + 1 :])


def linked(path):
    """A link to what was there."""
    target = path.parents[2] / f"elsewhere-{path.name}"
    shutil.move(path, target)
    path.symlink_to(target)


DAMAGES = (emptied, torn, flipped, edited, linked)
# People edit a plan, and its copy as configs is for other tools: what they say is what is meant.
FREE = ("best/plan.yaml", "best/adapters/adapter_config.json")


COMMANDS = ("report", "count", "export", "verify", "train", "resume")


def answer_of(run, command, tmp_path):
    """Exit code, stderr, and all that a command gives: its stdout and the files that it writes."""
    words = {
        "report": ["report", str(run), "--json"],
        "count": ["count", str(run / "best/weights"), "--json"],
        "export": ["export", str(run), "--to", "native", "--out", str(tmp_path / "out")],
        "verify": ["verify", str(run), "--json"],
        "train": ["train", "--plan", str(run / "best/plan.yaml"), "--out", str(tmp_path / "out"), "--json"],
        "resume": ["search", "--resume", "--out", str(run), "--json"],
    }[command]
    result = CliRunner().invoke(app, words)
    assert not isinstance(result.exception, Exception), result.exception
    written = sorted((tmp_path / "out").rglob("*.*")) if command in ("export", "train") else []
    given = {str(path.relative_to(tmp_path)): path.read_bytes() for path in written if path.is_file()}
    if command in ("report", "resume") and not result.exit_code:
        given["rows"] = rows_of(run)
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    stdout = re.sub(r'"\w*seconds\w*": [\d.e-]+|"\w*full_runs": [\d.]+', "", result.stdout)
    return result.exit_code, result.stderr, (stdout.replace(str(tmp_path), ""), given)


@pytest.fixture(scope="module")
def whole(finished, tmp_path_factory):
    """What each command gives for the whole run."""

    def answer(command):
        folder = tmp_path_factory.mktemp("whole")
        run = shutil.copytree(finished, folder / "deep" / "run")
        code, _, given = answer_of(run, command, folder)
        assert code == 0
        return given

    return {command: answer(command) for command in COMMANDS}


def differing(finished, tmp_path, expected, *, command, name, damages):
    """The damages of a file after which a command gives something else and does not say why."""
    run, found = tmp_path / "deep" / "run", []
    for damage in damages:
        shutil.rmtree(tmp_path / "deep", ignore_errors=True)
        shutil.copytree(finished, run)
        damage(min(run.glob(name)))
        code, errors, given = answer_of(run, command, tmp_path)
        is_told = len([line for line in errors.splitlines() if line.startswith("error: ")]) == 1
        if (code and not is_told) or (not code and given != expected and "damaged" not in errors):
            found.append((damage.__name__, code, errors))
    return found


def by_day(command, name, damage):
    """By day a report is made of each file cut off and edited; the weights are damaged in each way."""
    return damage in (torn, edited) if command == "report" else name.startswith("best/weights")


TRIED = [
    pytest.param(command, name, damage, marks=() if by_day(command, name, damage) else pytest.mark.nightly)
    for command in ("report", "count", "export")
    for name in FILES
    for damage in DAMAGES
    if name not in FREE or damage is linked
]


@pytest.mark.parametrize(("command", "name", "damage"), TRIED)
def test_no_damage_makes_a_difference_in_silence(finished, whole, tmp_path, command, name, damage):
    assert not differing(finished, tmp_path, whole[command], command=command, name=name, damages=[damage])


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("best/weights")])
def test_verify_passes_no_damaged_weights(finished, whole, tmp_path, name):
    assert not differing(finished, tmp_path, whole["verify"], command="verify", name=name, damages=DAMAGES)


def test_train_reads_no_damaged_plan(finished, whole, tmp_path):
    """A plan may be edited on purpose, and a link may be passed as one."""
    options = {"command": "train", "name": "best/plan.yaml", "damages": (emptied, torn)}
    assert not differing(finished, tmp_path, whole["train"], **options)


@pytest.mark.parametrize("name", FILES)
def test_a_resumed_run_repairs_a_damage_or_says_it(finished, whole, tmp_path, name):
    assert not differing(finished, tmp_path, whole["resume"], command="resume", name=name, damages=(edited,))


def test_the_table_has_every_kind_of_file_of_a_run(finished):
    known = {path for name in FILES for path in finished.glob(name)}
    rest = {path for path in finished.rglob("*") if path.is_file()} - known
    written_anew = {"report.md", "report.html", "sensitivity.csv", ".lock"}
    for_the_hub = {path.name for path in rest if path.parent.name in ("weights", "judged")}
    assert {path.name for path in rest} <= written_anew | for_the_hub
    assert len(known) > len(FILES)
