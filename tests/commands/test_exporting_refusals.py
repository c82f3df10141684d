"""`autopeft export` on folders as they lie on the disk: what bad input gets."""

from __future__ import annotations

import json

import peft
import pytest
import transformers
from safetensors.torch import load_file, save_file
from toys.commands import refused
from toys.exports import export


def test_adapter_without_the_head_missing_from_the_base_model_is_refused(model_dir, tmp_path):
    module = transformers.AutoModelForSequenceClassification.from_pretrained(model_dir)
    model = peft.get_peft_model(module, peft.LoraConfig(target_modules=["query"]))
    model.peft_config["default"].task_type = "SEQ_CLS"
    model.save_pretrained(tmp_path / "adapter")
    flags = (tmp_path / "adapter", "--model", model_dir, "--to", "merged")
    refused(export(*flags, "--out", tmp_path / "out"), 2, "classifier.bias")
    assert not (tmp_path / "out").exists()


def test_pickle_is_refused(trained_adapter, tmp_path):
    toy = trained_adapter()
    (toy.folder / "adapter_model.safetensors").rename(toy.folder / "adapter_model.bin")
    flags = (toy.folder, "--to", "uniform-lora", "--out", tmp_path / "out")
    refused(export(*flags), 2, "pickle")


@pytest.mark.parametrize("damage", [b"", None])
def test_damaged_weights_are_refused_in_a_sentence(damage, trained_adapter, tmp_path):
    toy = trained_adapter()
    file = toy.folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-40] if damage is None else damage)
    refused(export(toy.folder, "--to", "merged", "--out", tmp_path / "out"), 2, file.name)
    assert not (tmp_path / "out").exists()


def write_tensors(toy, change):
    file = toy.folder / "adapter_model.safetensors"
    save_file({key: tensor.clone() for key, tensor in change(load_file(file)).items()}, file)


@pytest.mark.parametrize("to", ["native", "uniform-lora", "merged"])
@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda tensors: {key: t * float("nan") for key, t in tensors.items()}, "not finite"),
        (lambda tensors: {}, "lora_A"),
        (lambda tensors: {key: t[:1] for key, t in tensors.items()}, "lora_A"),
    ],
)
def test_weights_that_are_not_those_of_the_config_are_refused(change, word, to, trained_adapter, tmp_path):
    toy = trained_adapter()
    write_tensors(toy, change)
    refused(export(toy.folder, "--to", to, "--out", tmp_path / "out"), 2, word)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("to", ["native", "merged"])
@pytest.mark.parametrize(
    ("fields", "code", "word"),
    [({"target_modules": ["query", "q_prj"]}, 3, "q_prj"), ({"peft_type": "LORRA"}, 2, "LORA")],
)
def test_config_that_does_not_fit_its_base_model_is_refused(
    fields, code, word, to, trained_adapter, tmp_path
):
    toy = trained_adapter()
    file = toy.folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
    refused(export(toy.folder, "--to", to, "--out", tmp_path / "out"), code, word)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("to", "word"), [("uniformlora", "uniform-lora"), ("native", "adapter_config.json")])
def test_unknown_format_and_folder_without_adapter_are_usage_errors(to, word, tmp_path):
    refused(export(tmp_path, "--to", to, "--out", tmp_path / "out"), 2, word)
    assert list(tmp_path.iterdir()) == []
