"""Loading a base model: what the checkpoint does not have, and the head's own learning rate."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForSequenceClassification, BertModel

from autopeft import model
from autopeft.errors import ModelError
from autopeft.setup.build import prepare
from autopeft.types import ModelSpec, Plan

AUTO = "AutoModelForSequenceClassification"
INPUTS = {"input_ids": torch.tensor([[2, 5, 6, 3]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}


@pytest.fixture
def no_pooler_dir(model_dir: Path, tmp_path: Path) -> Path:
    """A checkpoint without a pooler, as masked language models leave it."""
    folder = tmp_path / "no-pooler"
    shutil.copytree(model_dir, folder)
    torch.manual_seed(7)
    BertModel(AutoConfig.from_pretrained(model_dir), add_pooling_layer=False).save_pretrained(folder)
    return folder


def test_module_missing_in_the_checkpoint_is_trained_with_the_head(no_pooler_dir: Path) -> None:
    base = model.load(ModelSpec(id=str(no_pooler_dir)), auto_class=AUTO, label_names=("neg", "pos"))
    hidden = base.module.config.hidden_size
    assert base.head_names == ("classifier", "bert.pooler.dense")
    assert base.head_params == (2 * hidden + 2) + (hidden * hidden + hidden)
    assert "bert.pooler.dense" not in {target.name for target in base.targets}
    skeleton = model.load_skeleton(ModelSpec(id=str(no_pooler_dir)), auto_class=AUTO)
    assert skeleton.base_params == base.base_params
    assert "bert.pooler.dense" in base.lacking and "random" not in base.lacking and skeleton.lacking == ""


def test_so_it_is_if_the_model_is_passed_in_memory(
    no_pooler_dir: Path, model_dir: Path, tokenizer: Any
) -> None:
    whole, no_pooler = (
        AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)
        for folder in (model_dir, no_pooler_dir)
    )
    drawn = AutoModelForSequenceClassification.from_config(whole.config)
    heads = {whole: (), drawn: (), no_pooler: ("bert.pooler.dense",)}
    for module, missing in heads.items():
        base = model.from_memory(
            module, tokenizer, auto_class=AUTO, label_names=("neg", "pos"), precision=model.Precision()
        )
        assert base.head_names == ("classifier", *missing)


def test_weights_over_an_incomplete_checkpoint_reload_exactly(no_pooler_dir: Path, tmp_path: Path) -> None:
    base = model.load(ModelSpec(id=str(no_pooler_dir)), auto_class=AUTO, label_names=("neg", "pos"))
    target = next(target for target in base.targets if target.role == "q")
    config = LoraConfig(r=1, target_modules=[target.name], init_lora_weights=False)
    plan = Plan(adapters=(), learning_rate=1.0, trainable_params=target.in_features + target.out_features)
    with base.attached([config], plan=plan, task_type="SEQ_CLS", seed=5) as attached, torch.no_grad():
        expected = attached.eval()(**INPUTS).logits
        model.save_weights(attached, ("default",), tmp_path / "weights")
    torch.manual_seed(99)  # another process would draw another pooler
    plain = AutoModelForSequenceClassification.from_pretrained(no_pooler_dir, num_labels=2)
    with torch.no_grad():
        seen = PeftModel.from_pretrained(plain, tmp_path / "weights").eval()(**INPUTS).logits
    assert torch.equal(seen, expected)


def test_two_loads_of_one_checkpoint_are_the_same_model(no_pooler_dir: Path) -> None:
    spec = ModelSpec(id=str(no_pooler_dir))
    first = model.load(spec, auto_class=AUTO, label_names=("neg", "pos")).sha256()
    torch.manual_seed(1234)
    assert model.load(spec, auto_class=AUTO, label_names=("neg", "pos")).sha256() == first


CUSTOM = {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}}
NATTEN = {"model_type": "dinat", "depths": [1], "num_heads": [1], "embed_dim": 16}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (CUSTOM, "never run here"),
        ({"model_type": "vit", "attn_implementation": "evil/kernel"}, "evil/kernel"),
        (NATTEN, "natten"),
    ],
)
def test_a_model_that_needs_other_code_is_refused_with_what_to_do(
    config: dict, words: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file({"weight": torch.ones(1)}, tmp_path / "model.safetensors")
    spec = ModelSpec(id=str(tmp_path))
    for load in (model.load_skeleton, partial(model.load, label_names=("a", "b"))):
        with pytest.raises(ModelError, match=words):
            load(spec, auto_class="AutoModelForImageClassification")


def test_attention_is_of_the_kind_that_was_asked_for(small_spec, tmp_path: Path) -> None:
    spec = small_spec(tmp_path / "run", attn="eager")
    assert prepare(spec).base.module.config._attn_implementation == "eager"


def changed(folder: Path, model_dir: Path, **fields: object) -> ModelSpec:
    shutil.copytree(model_dir, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | fields), encoding="utf-8")
    return ModelSpec(id=str(folder))


def test_a_checkpoint_without_some_layers_is_refused(model_dir: Path, tmp_path: Path) -> None:
    n_layers = AutoConfig.from_pretrained(model_dir).num_hidden_layers
    spec = changed(tmp_path / "model", model_dir, num_hidden_layers=n_layers + 3)
    with pytest.raises(ModelError, match=rf"bert\.encoder\.layer\.{n_layers}\."):
        model.load(spec, auto_class=AUTO, label_names=("neg", "pos"))


class Harmful:
    """An object whose pickle runs code when read."""

    def __reduce__(self) -> tuple:
        return (open, ("/nonexistent/harm", "w"))


def test_a_pickle_with_code_is_refused_without_advice_to_run_it(model_dir: Path, tmp_path: Path) -> None:
    spec = changed(tmp_path / "model", model_dir)
    (tmp_path / "model/model.safetensors").unlink()
    torch.save({"a": Harmful()}, tmp_path / "model/pytorch_model.bin")
    with pytest.raises(ModelError, match="safetensors") as caught:
        model.load(spec, auto_class=AUTO, label_names=("neg", "pos"))
    assert "weights_only" not in str(caught.value)
