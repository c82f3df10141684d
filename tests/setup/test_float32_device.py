"""Whole models in float32: on a GPU where they fit beside what it holds, else on the CPU."""

from __future__ import annotations

import json

import pytest
import torch
from toys.specs import run_spec

from autopeft.errors import ModelError
from autopeft.model import load_skeleton
from autopeft.setup import resources
from autopeft.setup.resources import device_in_float32, loading_place
from autopeft.types import Adapter, ModelSpec, Plan

AUTO_CLASS = "AutoModelForSequenceClassification"
LANGUAGE = "AutoModelForCausalLM"


@pytest.fixture
def gpu(monkeypatch, model_dir):
    """A machine with one GPU, and a function: how many copies of the model in float32 are free on it."""
    n_params = sum(
        p.numel()
        for p in load_skeleton(ModelSpec(id=str(model_dir)), auto_class=AUTO_CLASS).module.parameters()
    )

    def find_device(name):
        if name == "cuda:7":
            raise ModelError("The device 'cuda:7' cannot be used here.")
        return torch.device(name or "cuda")

    def with_free_copies(n_copies):
        monkeypatch.setattr(resources, "free_bytes", lambda device: int(n_copies * 4 * n_params))

    monkeypatch.setattr(resources, "find_device", find_device)
    with_free_copies(10)
    return with_free_copies


@pytest.mark.parametrize(("free", "device"), [(1.3, "cuda"), (1.2, "cpu"), (0.0, "cpu")])
def test_gpu_is_taken_where_a_fifth_of_what_is_free_is_left(free, device, gpu, model_dir):
    gpu(free)
    spec = ModelSpec(id=str(model_dir))
    assert device_in_float32(spec, auto_class=AUTO_CLASS) == device


@pytest.mark.parametrize(
    ("preferred", "device"), [("cuda:1", "cuda:1"), ("cpu", "cpu"), ("cuda:7", "cuda"), (None, "cuda")]
)
def test_the_preferred_device_is_taken_if_it_is_there(preferred, device, gpu, model_dir):
    assert (
        device_in_float32(ModelSpec(id=str(model_dir)), auto_class=AUTO_CLASS, preferred=preferred) == device
    )


def test_a_quantized_model_goes_to_the_gpu(gpu, model_dir):
    gpu(0)
    spec = ModelSpec(id=str(model_dir), quantize="4bit")
    assert device_in_float32(spec, auto_class=AUTO_CLASS) == "cuda"
    assert device_in_float32(spec, auto_class=AUTO_CLASS, dequantizes=True) == "cpu"


@pytest.mark.parametrize(("method", "device"), [("bitsandbytes", "cuda"), ("gptq", "cuda"), ("mxfp4", "cpu")])
def test_a_checkpoint_that_is_quantized_already_goes_to_the_gpu_too(method, device, gpu, model_dir, tmp_path):
    gpu(0)
    config = json.loads((model_dir / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = {"quant_method": method, "bits": 4, "load_in_4bit": True}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert device_in_float32(ModelSpec(id=str(tmp_path)), auto_class=AUTO_CLASS) == device


def lora_at(target):
    adapter = Adapter(method="lora", target=target, rank=1, scale=1.0)
    return Plan(adapters=(adapter,), learning_rate=0.01, trainable_params=1)


@pytest.mark.parametrize(
    ("auto_class", "dtype", "target", "capability", "free", "expected"),
    [
        (LANGUAGE, "bfloat16", "model.layers.0.mlp.up_proj", (8, 0), 0.7, ("cuda", "bfloat16")),
        (LANGUAGE, "bfloat16", "model.layers.0.mlp.up_proj", (8, 0), 0.6, ("cpu", "float32")),
        (LANGUAGE, "bfloat16", "model.layers.0.mlp.up_proj", (7, 5), 0.7, ("cuda", "float16")),
        (LANGUAGE, "bfloat16", "model.layers.0.mlp.up_proj", (6, 1), 0.7, ("cpu", "float32")),
        (LANGUAGE, "float32", "model.layers.0.mlp.up_proj", (8, 0), 1.3, ("cuda", "float32")),
        (LANGUAGE, "bfloat16", "model.layers.0.input_layernorm", (8, 0), 1.3, ("cuda", "float32")),
        (AUTO_CLASS, "bfloat16", "model.layers.0.mlp.up_proj", (8, 0), 1.3, ("cuda", "float32")),
    ],
)
def test_a_language_model_without_trained_norms_is_loaded_as_its_run_held_it(
    auto_class, dtype, target, capability, free, expected, gpu, tiny_llama, monkeypatch
):
    spec = ModelSpec(id=str(tiny_llama))
    skeleton = load_skeleton(spec, auto_class=auto_class)
    n_bytes = 4 * (skeleton.base_params + skeleton.head_params)
    monkeypatch.setattr(resources, "free_bytes", lambda device: int(free * n_bytes))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)  # a CPU without bfloat16
    place, precision = loading_place(
        run_spec(tiny_llama, dtype=dtype), lora_at(target), auto_class=auto_class
    )
    assert (place, precision.dtype) == expected
