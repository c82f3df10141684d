"""An adapter says which base model it is for, in words that others can use, and people may edit its card."""

from __future__ import annotations

import json
import shutil
from importlib import import_module

import huggingface_hub
import peft
import pytest
import transformers
from toys.exports import answer
from typer.testing import CliRunner

from autopeft.cli.app import app
from autopeft.commands import apply, push
from autopeft.model import DEMO_HUB_ID, resolve
from autopeft.store import read_plan
from autopeft.types import ModelSpec

COMMIT = "a" * 40
SEARCH = "--budget 5% --max-steps 3 --effort quick --quiet --space everything"


@pytest.fixture(scope="module")
def cached(model_dir, tmp_path_factory):
    """A cache of the hub that holds the toy model as org/toy."""
    with pytest.MonkeyPatch.context() as patch:
        hub = tmp_path_factory.mktemp("hub")
        folder = hub / "models--org--toy"
        shutil.copytree(model_dir, folder / "snapshots" / COMMIT)
        (folder / "refs").mkdir()
        (folder / "refs/main").write_text(COMMIT)
        for module in (transformers.utils.hub, huggingface_hub.constants):
            for name in ("HF_HUB_CACHE", "TRANSFORMERS_CACHE"):
                if hasattr(module, name):
                    patch.setattr(module, name, str(hub))
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # else it asks again and again
        yield "org/toy"


@pytest.fixture(scope="module", params=["lora", "ia3"])
def run(request, cached, data_dir, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    paths = ["--model", cached, "--data", str(data_dir), "--out", str(out), "--methods", request.param]
    done = CliRunner().invoke(app, ["search", *SEARCH.split(), *paths])
    assert done.exit_code == 0, done.output
    return out


def configs_in(folder):
    return [json.loads(path.read_text()) for path in sorted(folder.rglob("adapter_config.json"))]


def test_configs_name_the_base_model_with_its_commit(run, tmp_path):
    for folder in ("adapters", "weights"):
        for config in configs_in(run / "best" / folder):
            assert (config["base_model_name_or_path"], config["revision"]) == ("org/toy", COMMIT)
    answer(run, "--to", "native", "--out", tmp_path / "out")
    assert {config["revision"] for config in configs_in(tmp_path / "out")} == {COMMIT}


def test_pushed_folder_can_be_used_after_its_card_was_edited(run, model_dir, tmp_path, monkeypatch):
    folder = tmp_path / "pushed"
    pushing = import_module("autopeft.commands.push")  # `commands.push` is its function
    monkeypatch.setattr(pushing, "_upload", lambda parent, *_, **__: str(shutil.copytree(parent, folder)))
    push(run, "me/x", base_model="org/other")
    assert [path for path in folder.rglob("*.*") if str(model_dir.parent).encode() in path.read_bytes()] == []
    if (folder / "plan.yaml").is_file():
        named = read_plan(folder).model
        assert (named.id, named.revision) == ("org/other", None)
    assert {c["base_model_name_or_path"] for c in configs_in(folder)} == {"org/other"}
    with (folder / "README.md").open("a") as card:
        card.write("\nMy notes.\n")
    (folder / ".gitattributes").write_text("*.safetensors filter=lfs\n")
    base = transformers.AutoModelForSequenceClassification.from_pretrained(model_dir, num_labels=2)
    assert isinstance(apply(read_plan(run).plan, base, weights=folder), peft.PeftModel)


def test_id_of_the_demo_loads_the_demo_where_the_hub_is_not_at_hand():
    assert resolve(ModelSpec(id=DEMO_HUB_ID)) == resolve(ModelSpec())
