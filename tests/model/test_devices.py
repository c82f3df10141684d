"""What is done otherwise on GPUs, tried without one: on tensors that hold no numbers, and with stand-ins."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import psutil
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from autopeft.model import free_bytes
from autopeft.model.devices import forked_rng, random_state, set_random_state, to_float64

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
