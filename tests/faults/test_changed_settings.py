"""A resumed run refuses what would give other numbers, and shows the difference."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml
from toys.specs import run_spec

from autopeft import commands
from autopeft.errors import RunDirError
from autopeft.run.progress import Lines
from autopeft.run.state import logged_measurements
from autopeft.store import RunDir, read_checked, write_checked
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
        commands.run_search(spec, explicit=frozenset({"search.trials"}), progress=StopsAfterOne())
    return folder


def resume(folder, **settings):
    spec = run_spec(out=folder / "run", **settings)
    commands.run_search(spec, explicit=frozenset(settings), resume=True, progress=StopsAfterOne())


def edit_json(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def swap_words(folder):
    path = folder / "model/tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    first, second = sorted(vocabulary, key=vocabulary.get)[-2:]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    path.write_text(json.dumps(content))


def longer_run(folder):
    path = folder / "run/run.yaml"
    content = yaml.safe_load(path.read_text())
    content["task"]["max_steps"] = 12
    path.write_text(yaml.safe_dump(content))


def edit_start(folder, **values):
    path = folder / "run/state/state.json"
    content = read_checked(path, remedy="")
    write_checked(path, content | {"start": content["start"] | values})


CHANGES = {
    "config.hidden_act gelu, now it is relu": lambda f: edit_json(f / "model/config.json", hidden_act="relu"),
    "config.layer_norm_eps 1e-12, now it is 0.1": lambda f: edit_json(
        f / "model/config.json", layer_norm_eps=0.1
    ),
    "config.hidden_dropout_prob 0.1, now it is 0.4": lambda f: edit_json(
        f / "model/config.json", hidden_dropout_prob=0.4
    ),
    "vocabulary of the tokenizer [0-9a-f]+, now it is [0-9a-f]+": swap_words,
    "task.max_steps 8, now it is 12": longer_run,
    "search space .*, now it is": lambda f: (f / "space.yaml").write_text(
        "about: toy\nmethods: {lora: {placement: [all]}}\n"
    ),
    r"transformers 5\.0\.1, now it is": lambda f: edit_start(f, transformers="5.0.1"),
    "device cuda, now it is cpu": lambda f: edit_start(f, device="cuda"),
    r"attention \w+, now it is eager": lambda f: edit_json(
        f / "model/config.json", attn_implementation="eager"
    ),
    r"optuna 4\.0\.0, now it is": lambda f: edit_start(f, optuna="4.0.0"),
    r"tokenizers 0\.1, now it is": lambda f: edit_start(f, tokenizers="0.1"),
}


@pytest.mark.parametrize("sentence", CHANGES)
def test_a_change_that_gives_other_numbers_is_refused(stopped, tmp_path, sentence):
    # At its place, since the run names its model by its path.
    spare = shutil.copytree(stopped, tmp_path / "spare")
    try:
        CHANGES[sentence](stopped)
        with pytest.raises(RunDirError, match=f"was measured with .*{sentence}.*put it back as it was"):
            resume(stopped)
    finally:
        shutil.rmtree(stopped)
        shutil.copytree(spare, stopped)


@pytest.mark.parametrize("is_same", [True, False])
def test_a_run_goes_on_with_data_and_model_at_another_place_where_they_are_the_same(
    stopped, data_dir, tmp_path, is_same
):
    run = shutil.copytree(stopped, tmp_path / "copy") / "run"
    data, model = (
        shutil.copytree(source, tmp_path / source.name) for source in (data_dir, stopped / "model")
    )
    if not is_same:
        table = data / "train.csv"
        table.write_text("\n".join(table.read_text().splitlines()[:-3]) + "\n")
    spec = with_setting(run_spec(str(model), out=run), "data.source", str(data))
    error, sentence = (KeyboardInterrupt, "") if is_same else (RunDirError, "data_fingerprint .*, now it is")
    with pytest.raises(error, match=sentence):
        given = frozenset({"model.id", "data.source"})
        commands.run_search(spec, explicit=given, resume=True, progress=StopsAfterOne())
    if is_same:
        assert yaml.safe_load((run / "run.yaml").read_text())["data"]["source"] == str(data)


def test_a_run_whose_start_is_missing_is_not_measured_further(stopped, tmp_path):
    folder = shutil.copytree(stopped, tmp_path / "copy")
    (folder / "run/state/state.json").unlink()
    with pytest.raises(RunDirError, match=r"state\.json is missing, so that nothing tells whether data"):
        resume(folder)


def test_measurements_in_the_log_of_another_run_are_not_taken(stopped, tmp_path, caplog):
    folder = shutil.copytree(stopped, tmp_path / "copy")
    (measured,) = logged_measurements(RunDir(folder / "run"))
    edit_start(folder, data_fingerprint="of other rows")
    assert logged_measurements(RunDir(folder / "run")) == {}
    assert f"Plan {measured[0].digest} is measured again; its measurement is of another run" in caplog.text


def test_a_run_goes_on_with_another_device_of_the_kind(stopped, tmp_path):
    folder = shutil.copytree(stopped, tmp_path / "copy")
    settings = {"execution.device": "cpu"}
    before = yaml.safe_load((folder / "run/run.yaml").read_text())["execution"]
    assert before["device"] is None
    with pytest.raises(KeyboardInterrupt):
        resume(folder, **settings)
    after = yaml.safe_load((folder / "run/run.yaml").read_text())["execution"]
    assert after == before | {name.partition(".")[2]: value for name, value in settings.items()}
