"""What is done otherwise on GPUs, tried without one: on tensors that hold no numbers, and with stand-ins."""

from __future__ import annotations

import copy
from functools import partial
from types import SimpleNamespace

import peft
import psutil
import pytest
import torch
from peft import FourierFTConfig, LoraConfig
from torch._subclasses.fake_tensor import FakeTensorMode

from autopeft.model import (
    attach,
    forked_rng,
    free_bytes,
    random_state,
    release_memory,
    set_random_state,
    to_float64,
)
from autopeft.model.attaching import place_frequencies

MPS = torch.device("mps")


@pytest.fixture
def states(monkeypatch):
    """The states of an Apple GPU's generator, the last one being its present one."""
    states = [torch.tensor([1], dtype=torch.uint8)]
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda device="mps": states[-1].clone())
    monkeypatch.setattr(torch.mps, "set_rng_state", lambda state, device="mps": states.append(state))
    return states


@pytest.mark.parametrize(("device", "expected"), [("cuda", "cuda"), ("mps", "cpu"), ("cpu", "cpu")])
def test_float64_is_made_on_the_cpu_where_the_device_has_none(device, expected):
    with FakeTensorMode():
        doubled = to_float64(torch.ones(2, device=device))
    assert (doubled.device.type, doubled.dtype) == (expected, torch.float64)


def test_generator_of_an_apple_gpu_is_put_back(states):
    before = torch.random.get_rng_state()
    with forked_rng(MPS):
        set_random_state(MPS, torch.tensor([2], dtype=torch.uint8))
        torch.rand(1)
    assert random_state(MPS).tolist() == [1]
    assert len(states) == 3
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(("available", "free"), [(2, 3), (30, 11)])
def test_an_apple_gpu_has_no_more_memory_than_other_programs_leave(available, free, monkeypatch):
    """Of 12 GiB that it may take, 1 GiB holds tensors; torch keeps 1 GiB more, which counts as free."""
    gib = 2**30
    answers = {"recommended_max_memory": 12, "current_allocated_memory": 1, "driver_allocated_memory": 2}
    for name, answer in answers.items():
        monkeypatch.setattr(torch.mps, name, partial(int, answer * gib))
    memory = SimpleNamespace(available=available * gib)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    assert free_bytes(MPS) == free * gib


def test_memory_of_an_apple_gpu_is_given_back(monkeypatch):
    calls = []
    monkeypatch.setattr(torch.mps, "empty_cache", lambda: calls.append("mps"))
    release_memory(MPS)
    release_memory(torch.device("cpu"))
    assert calls == ["mps"]


def test_frequencies_of_fourierft_lie_where_its_weights_are():
    module = torch.nn.Sequential(torch.nn.Linear(4, 4))
    module.config = {}
    config = FourierFTConfig(n_frequency=3, target_modules=["0"])
    model = attach(module, [config], task_type=None, head_names=())
    layer = model.base_model.model[0]
    assert layer.indices["default"].device.type == "cpu"
    with FakeTensorMode(allow_non_fake_inputs=True):
        layer.fourierft_spectrum["default"] = torch.nn.Parameter(torch.empty(3, device="cuda"))
        place_frequencies(model)
    assert layer.indices["default"].device.type == "cuda"


@pytest.mark.parametrize("architecture", ["llama-lm", "gpt2"])
def test_dora_computes_as_peft_does_and_needs_no_identity_matrix(architecture, make_base, monkeypatch):
    base = make_base(architecture)
    torch.manual_seed(0)
    config = LoraConfig(r=2, target_modules="all-linear", use_dora=True, init_lora_weights=False)
    theirs = peft.get_peft_model(copy.deepcopy(base.module), copy.deepcopy(config))
    ours = attach(base.module, [config], task_type=None, head_names=())
    adapters = {name: value for name, value in theirs.state_dict().items() if "lora_" in name}
    assert adapters and not ours.load_state_dict(adapters, strict=False).unexpected_keys
    words = torch.arange(4, 18).reshape(2, 7)
    inputs = {"input_ids": words, "attention_mask": torch.ones_like(words)}
    seen = [_outputs_and_gradients(theirs, inputs)]
    monkeypatch.setattr(torch, "eye", None)
    seen.append(_outputs_and_gradients(ours, inputs))
    for expected, value in zip(*seen, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)


def _outputs_and_gradients(model, inputs):
    torch.manual_seed(0)
    logits = model.train()(**inputs).logits
    logits.square().mean().backward()
    return [logits, *(p.grad for name, p in model.named_parameters() if "lora_" in name)]
