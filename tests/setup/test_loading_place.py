"""Finished language models are loaded as their run held them, others in float32."""

from __future__ import annotations

import pytest
import torch
from toys.specs import run_spec

from autopeft.errors import ModelError
from autopeft.setup import resources
from autopeft.setup.resources import loading_place
from autopeft.types import Adapter, Plan

AUTO_CLASS = "AutoModelForSequenceClassification"
LANGUAGE = "AutoModelForCausalLM"
MLP, NORM = "model.layers.0.mlp.up_proj", "model.layers.0.input_layernorm"


@pytest.fixture(autouse=True)
def gpu(monkeypatch):
    """A machine with one GPU."""

    def find_device(name):
        if name == "cuda:7":
            raise ModelError("The device 'cuda:7' cannot be used here.")
        return torch.device(name or "cuda")

    monkeypatch.setattr(resources, "find_device", find_device)


def lora_at(target):
    adapter = Adapter(method="lora", target=target, rank=1, scale=1.0)
    return Plan(adapters=(adapter,), learning_rate=0.01, trainable_params=1)


@pytest.mark.parametrize(
    ("preferred", "device"), [("cuda:1", "cuda:1"), ("cpu", "cpu"), ("cuda:7", "cuda"), (None, "cuda")]
)
def test_the_device_of_the_run_is_taken_if_it_is_there(preferred, device, tiny_llama):
    spec = run_spec(tiny_llama, device=preferred, dtype="float32")
    assert loading_place(spec, lora_at(MLP), auto_class=LANGUAGE)[0] == device


@pytest.mark.parametrize(
    ("auto_class", "dtype", "target", "capability", "expected"),
    [
        (LANGUAGE, "bfloat16", MLP, (8, 0), "bfloat16"),
        (LANGUAGE, "bfloat16", MLP, (7, 5), "float16"),
        (LANGUAGE, "bfloat16", MLP, (6, 1), "float32"),
        (LANGUAGE, "float32", MLP, (8, 0), "float32"),
        (LANGUAGE, "bfloat16", NORM, (8, 0), "float32"),
        (AUTO_CLASS, "bfloat16", MLP, (8, 0), "float32"),
    ],
)
def test_a_language_model_without_trained_norms_is_loaded_as_its_run_held_it(
    auto_class, dtype, target, capability, expected, tiny_llama, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    spec = run_spec(tiny_llama, dtype=dtype)
    assert loading_place(spec, lora_at(target), auto_class=auto_class)[1].dtype == expected
