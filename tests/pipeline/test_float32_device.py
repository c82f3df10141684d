"""Whole models in float32: on a GPU where they fit beside what it holds, else on the CPU."""

from __future__ import annotations

import json

import pytest
import torch

from autopeft.errors import ModelError
from autopeft.model import load_skeleton
from autopeft.pipeline import computing
from autopeft.pipeline.computing import device_in_float32
from autopeft.records import ModelSpec

AUTO_CLASS = "AutoModelForSequenceClassification"


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
        monkeypatch.setattr(computing, "free_bytes", lambda device: int(n_copies * 4 * n_params))

    monkeypatch.setattr(computing, "find_device", find_device)
    with_free_copies(10)
    return with_free_copies


@pytest.mark.parametrize(("free", "device"), [(1.3, "cuda"), (1.2, "cpu"), (0.0, "cpu")])
def test_gpu_is_taken_where_a_fifth_of_what_is_free_is_left(free, device, gpu, model_dir):
    gpu(free)
    spec = ModelSpec(id=str(model_dir))
    assert device_in_float32(spec, auto_class=AUTO_CLASS) == device


@pytest.mark.parametrize(
    ("wanted", "device"), [("cuda:1", "cuda:1"), ("cpu", "cpu"), ("cuda:7", "cuda"), (None, "cuda")]
)
def test_the_wanted_device_is_taken_where_it_is_there(wanted, device, gpu, model_dir):
    assert device_in_float32(ModelSpec(id=str(model_dir)), auto_class=AUTO_CLASS, wanted=wanted) == device


def test_a_quantised_model_goes_to_the_gpu(gpu, model_dir):
    gpu(0)
    spec = ModelSpec(id=str(model_dir), quantize="4bit")
    assert device_in_float32(spec, auto_class=AUTO_CLASS) == "cuda"
    assert device_in_float32(spec, auto_class=AUTO_CLASS, dequantises=True) == "cpu"


@pytest.mark.parametrize(("method", "device"), [("bitsandbytes", "cuda"), ("gptq", "cuda"), ("mxfp4", "cpu")])
def test_a_checkpoint_that_is_quantised_already_goes_to_the_gpu_too(method, device, gpu, model_dir, tmp_path):
    gpu(0)
    config = json.loads((model_dir / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = {"quant_method": method, "bits": 4, "load_in_4bit": True}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert device_in_float32(ModelSpec(id=str(tmp_path)), auto_class=AUTO_CLASS) == device
