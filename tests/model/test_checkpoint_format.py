"""Checkpoints that cannot be trained as they are: quantized without gradients, adapters, missing packages."""

from __future__ import annotations

import importlib.util
import json

import pytest
import transformers
from peft import LoraConfig
from torch import nn
from transformers.quantizers.auto import AutoHfQuantizer

from autopeft import model
from autopeft.errors import ModelError
from autopeft.model.quantization import dequantizing, require_trainable
from autopeft.types import ModelSpec

CLASSIFIER = "AutoModelForSequenceClassification"


def loaded_with(settings):
    """A module that says how transformers has quantized it."""
    module = nn.Module()
    module.hf_quantizer = AutoHfQuantizer.from_config(settings)
    return module


def test_quantized_layers_that_pass_no_gradient_are_refused():
    with pytest.raises(ModelError, match="mxfp4"):
        require_trainable(loaded_with(transformers.Mxfp4Config()), "toy")
    require_trainable(loaded_with(transformers.Mxfp4Config(dequantize=True)), "toy")
    require_trainable(loaded_with(transformers.BitsAndBytesConfig(load_in_4bit=True)), "toy")
    require_trainable(nn.Module(), "toy")


def test_mxfp4_is_dequantized_to_be_trained():
    stored = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
    arguments = dequantizing(transformers.LlamaConfig(quantization_config=stored))
    merged = AutoHfQuantizer.merge_quantization_configs(stored, arguments["quantization_config"])
    assert merged.dequantize and merged.modules_to_not_convert == ["lm_head"]
    assert dequantizing(transformers.LlamaConfig()) == {}
    assert dequantizing(transformers.LlamaConfig(quantization_config={"quant_method": "gptq"})) == {}


@pytest.mark.parametrize("has_model", [True, False])
def test_adapter_instead_of_a_base_model_is_refused_and_its_base_is_named(has_model, model_dir, tmp_path):
    if has_model:
        transformers.AutoConfig.from_pretrained(model_dir).save_pretrained(tmp_path)
    LoraConfig(target_modules=["query"], base_model_name_or_path="owner/base").save_pretrained(tmp_path)
    spec = ModelSpec(id=str(tmp_path))
    for attempt in (
        lambda: model.load(spec, auto_class=CLASSIFIER, label_names=("a", "b")),
        lambda: model.load_skeleton(spec, auto_class=CLASSIFIER),
        lambda: model.config_of(spec),
    ):
        with pytest.raises(ModelError, match="--model owner/base"):
            attempt()


@pytest.mark.skipif(importlib.util.find_spec("optimum") is not None, reason="the package is here")
def test_missing_package_of_a_quantized_checkpoint_is_what_the_error_names(model_dir, tmp_path):
    config = json.loads((model_dir / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4, "group_size": 128}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ModelError, match="optimum"):
        model.load(ModelSpec(id=str(tmp_path)), auto_class=CLASSIFIER, label_names=("a", "b"), device="cpu")
