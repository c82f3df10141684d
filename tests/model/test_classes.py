"""Models of texts and images learn from texts alone; all commands build the class that a search loads."""

from __future__ import annotations

import json

import pytest
from toys import topologies
from typer.testing import CliRunner

from autopeft import commands, model
from autopeft.cli.app import app
from autopeft.errors import ModelError
from autopeft.types import ModelSpec

CAUSAL, SEQ2SEQ = "AutoModelForCausalLM", "AutoModelForSeq2SeqLM"
LOADED = {"llava": "LlavaForConditionalGeneration", "qwen3_5": "Qwen3_5ForCausalLM"}


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory, tokenizer):
    """A function: name of a toy -> its folder."""

    def save(name):
        folder = tmp_path_factory.mktemp(name)
        topologies.build(name, device="cpu").save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return save


@pytest.mark.parametrize("name", LOADED)
def test_counting_builds_the_class_that_a_search_loads(name, folder_of):
    spec = ModelSpec(id=str(folder_of(name)))
    base = model.load(spec, auto_class=CAUSAL, label_names=())
    assert type(base.module).__name__ == LOADED[name]
    for auto_class in (CAUSAL, None):
        skeleton = model.load_skeleton(spec, auto_class=auto_class)
        assert type(skeleton.module) is type(base.module)
        assert skeleton.base_params == base.base_params
    assert not [target.name for target in base.targets if "vision" in target.name or "visual" in target.name]


@pytest.mark.parametrize("name", LOADED)
def test_run_on_texts_is_counted_and_exported_and_its_card_loads_it(name, folder_of, tmp_path, monkeypatch):
    folder, run = folder_of(name), tmp_path / "run"
    rows = [{"prompt": f"film {i}", "completion": f"bad {i % 5}"} for i in range(80)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = "--task text-generation --budget 5% --max-steps 4 --effort quick --methods lora --quiet"
    paths = ["--model", str(folder), "--data", str(tmp_path / "rows.jsonl"), "--out", str(run)]
    done = CliRunner().invoke(app, ["search", *flags.split(), *paths])
    assert done.exit_code == 0, done.output
    assert commands.count(run).trainable_params > 0
    exported = ["export", str(run), "--to", "uniform-lora", "--out", str(tmp_path / "lora")]
    done = CliRunner().invoke(app, exported)
    assert done.exit_code == 0, done.output
    card = (run / "best/weights/README.md").read_text()
    assert ("`Qwen3_5ForConditionalGeneration`" in card) is (name == "qwen3_5")
    monkeypatch.chdir(run)
    names: dict[str, object] = {}
    exec(card.split("```python\n")[1].split("```")[0], names)
    assert type(names["model"].get_base_model()).__name__ == LOADED[name]


def test_speech_models_are_refused(folder_of):
    spec = ModelSpec(id=str(folder_of("whisper")))
    with pytest.raises(ModelError, match="whisper"):
        model.load(spec, auto_class=SEQ2SEQ, label_names=())
