"""Models of texts and images learn from texts alone; all commands build the class that a search loads."""

from __future__ import annotations

import json

import peft
import pytest
import transformers
from peft import LoraConfig
from toys import topologies
from toys.counting import n_trained
from toys.specs import run_spec
from transformers import BertConfig, LlamaConfig, ViTConfig, ViTImageProcessor
from typer.testing import CliRunner

import autopeft
from autopeft import commands, model
from autopeft.cli.app import app
from autopeft.errors import ModelError
from autopeft.types import ModelSpec

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
TEXT, PIXELS = {**SIZES, "vocab_size": 99}, {**SIZES, "image_size": 32, "patch_size": 8}
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


@pytest.mark.parametrize(
    ("config", "named", "task", "trained"),
    [
        (BertConfig(**TEXT), "BertForMaskedLM", "text-classification", "BertForSequenceClassification"),
        (BertConfig(**TEXT), "BertForMaskedLM", None, "BertForSequenceClassification"),
        (BertConfig(**TEXT), "BertModel", None, "BertForSequenceClassification"),
        (LlamaConfig(**TEXT), "LlamaForCausalLM", None, "LlamaForCausalLM"),
        (LlamaConfig(**TEXT), "LlamaForCausalLM", "text-classification", "LlamaForSequenceClassification"),
        (ViTConfig(**PIXELS), "ViTModel", "image-classification", "ViTForImageClassification"),
    ],
)
def test_count_suggest_estimate_and_peft_agree_on_the_class(config, named, task, trained, tmp_path):
    config.architectures = [named]
    config.save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    suggestion, spec = autopeft.suggest(tmp_path, budget="r4", task=task), run_spec(tmp_path, task=task)
    LoraConfig(r=4, target_modules=suggestion.config.target_modules).save_pretrained(tmp_path / "lora")
    with_head = n_trained(peft.get_peft_model(getattr(transformers, trained)(config), suggestion.config))
    for path in ("lora_r4", str(tmp_path / "lora")):
        counted = commands.count(path, model_id=str(tmp_path), task=task)
        of_estimate, of_suggest = (
            each.answer.described.count for each in (commands.estimate_step(path, spec), suggestion.estimate)
        )
        numbers = [each.trainable_params for each in (counted, of_estimate, of_suggest, suggestion)]
        assert numbers == 4 * [with_head - of_suggest.head_params]
        assert [trained in note for note in counted.notes] == [True] * (task is None and named != trained)
