"""A resumed run refuses what would give other numbers, and shows the difference."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml
from safetensors.torch import load_file, save_file
from toys.specs import run_spec

from autopeft import commands
from autopeft.errors import RunDirError
from autopeft.report.progress import Lines
from autopeft.types import with_setting


class StopsAfterOne(Lines):
    def measured(self, measurement, **_):
        raise KeyboardInterrupt


@pytest.fixture(scope="module")
def stopped(small_spec, model_dir, tmp_path_factory):
    """A folder with a model, a search space, and the run that stopped after its first measurement."""
    folder = tmp_path_factory.mktemp("stopped")
    shutil.copytree(model_dir, folder / "model")
    (folder / "space.yaml").write_text(
        "about: toy\nmethods: {lora: {placement: [all]}, ia3: {placement: [all]}}\n"
    )
    spec = small_spec(folder / "run", model=str(folder / "model"), space=str(folder / "space.yaml"))
    with pytest.raises(KeyboardInterrupt):
        commands.run_search(spec, progress=StopsAfterOne())
    return folder


def resume(folder, **settings):
    spec = run_spec(out=folder / "run", **settings)
    commands.run_search(spec, resume=True, progress=StopsAfterOne())


def edit_json(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def longer_run(folder):
    path = folder / "run/run.yaml"
    content = yaml.safe_load(path.read_text())
    content["task"]["max_steps"] = 12
    path.write_text(yaml.safe_dump(content))


def edit_start(folder, **values):
    path = folder / "run/state/state.json"
    content = json.loads(path.read_bytes())
    edit_json(path, start=content["start"] | values)


def other_weights(folder):
    path = folder / "model/model.safetensors"
    tensors = load_file(path)
    next(iter(tensors.values())).view(-1)[0] += 1.0
    save_file(tensors, path, {"format": "pt"})


CHANGES = {
    "weights": other_weights,
    "task.max_steps was 8 and is now 12": longer_run,
    "search space": lambda f: (f / "space.yaml").write_text(
        "about: toy\nmethods: {lora: {placement: [all]}}\n"
    ),
    r"transformers was 5\.0\.1": lambda f: edit_start(f, transformers="5.0.1"),
    "device was cuda and is now cpu": lambda f: edit_start(f, device="cuda"),
    "attention .* is now eager": lambda f: edit_json(f / "model/config.json", attn_implementation="eager"),
}


@pytest.mark.parametrize("sentence", CHANGES)
def test_a_change_that_gives_other_numbers_is_refused(stopped, tmp_path, sentence):
    # At its place, since the run names its model by its path.
    spare = shutil.copytree(stopped, tmp_path / "spare")
    try:
        CHANGES[sentence](stopped)
        with pytest.raises(RunDirError, match=sentence):
            resume(stopped)
    finally:
        shutil.rmtree(stopped)
        shutil.copytree(spare, stopped)


@pytest.mark.parametrize("is_same", [True, False])
def test_a_run_is_resumed_with_the_same_data_and_model_at_another_place(stopped, data_dir, tmp_path, is_same):
    run = shutil.copytree(stopped, tmp_path / "copy") / "run"
    data, model = (
        shutil.copytree(source, tmp_path / source.name) for source in (data_dir, stopped / "model")
    )
    if not is_same:
        table = data / "train.csv"
        table.write_text("\n".join(table.read_text().splitlines()[:-3]) + "\n")
    spec = with_setting(run_spec(str(model), out=run), "data.source", str(data))
    error, sentence = (KeyboardInterrupt, "") if is_same else (RunDirError, "data_fingerprint was")
    with pytest.raises(error, match=sentence):
        commands.run_search(spec, resume=True, progress=StopsAfterOne())
    if is_same:
        assert yaml.safe_load((run / "run.yaml").read_text())["data"]["source"] == str(data)


def test_a_run_without_its_state_is_not_resumed(stopped, tmp_path):
    folder = shutil.copytree(stopped, tmp_path / "copy")
    (folder / "run/state/state.json").unlink()
    with pytest.raises(RunDirError, match=r"state\.json is missing"):
        resume(folder)


def test_a_run_is_resumed_on_another_device_of_the_kind(stopped, tmp_path):
    folder = shutil.copytree(stopped, tmp_path / "copy")
    settings = {"execution.device": "cpu"}
    before = yaml.safe_load((folder / "run/run.yaml").read_text())["execution"]
    assert before["device"] is None
    with pytest.raises(KeyboardInterrupt):
        resume(folder, **settings)
    after = yaml.safe_load((folder / "run/run.yaml").read_text())["execution"]
    assert after == before | {name.partition(".")[2]: value for name, value in settings.items()}
