"""Layers of `peft` that compute the same with less memory, against `peft` in values and bytes kept."""

from __future__ import annotations

import contextlib
import copy

import peft
import pytest
import torch
from peft import LoraConfig

from autopeft.model import attach
from autopeft.model.devices import SavedBytes
from autopeft.model.light_layers import LightHira

WORDS = torch.arange(4, 18).reshape(2, 7)
INPUTS = {"input_ids": WORDS, "attention_mask": torch.ones_like(WORDS)}


def theirs_and_ours(base, config):
    """`peft`'s model and ours with the same adapter; `peft`'s first."""
    torch.manual_seed(0)
    theirs = peft.get_peft_model(copy.deepcopy(base.module), copy.deepcopy(config))
    ours = attach(base.module, [config], task_type=None, head_names=())
    adapters = {
        name: value for name, value in theirs.state_dict().items() if config.peft_type.lower() in name
    }
    if config.peft_type == "HIRA":
        draw = torch.Generator().manual_seed(1)
        for value in adapters.values():
            value.copy_(torch.empty(value.shape).normal_(std=0.3, generator=draw))
    assert adapters and not ours.load_state_dict(adapters, strict=False).unexpected_keys
    return theirs, ours


def outputs_and_gradients(model, context=contextlib.nullcontext):
    """Logits and the gradients of all that is trained, in training mode, which some layers tell apart."""
    torch.manual_seed(0)
    with context():
        logits = model.train()(**INPUTS).logits
    logits.float().square().mean().backward()
    return [logits, *(p.grad for p in model.parameters() if p.requires_grad)]


@pytest.mark.parametrize("architecture", ["llama-lm", "gpt2"])
def test_dora_computes_as_peft_does_and_needs_no_identity_matrix(architecture, make_base, monkeypatch):
    config = LoraConfig(r=2, target_modules="all-linear", use_dora=True, init_lora_weights=False)
    theirs, ours = theirs_and_ours(make_base(architecture), config)
    expected = outputs_and_gradients(theirs)
    monkeypatch.setattr(torch, "eye", None)
    for value, right in zip(outputs_and_gradients(ours), expected, strict=True):
        torch.testing.assert_close(value, right, rtol=1e-5, atol=1e-6)


@pytest.fixture(params=["bert", "llama-lm", "gpt2"])
def hiras(request, make_base):
    """`peft`'s HiRA and ours at all linear layers: with a bias, without one, and transposed."""
    config = peft.HiraConfig(r=3, target_modules="all-linear")
    theirs, ours = theirs_and_ours(make_base(request.param), config)
    assert any(isinstance(module, LightHira) for module in ours.modules())
    assert not any(isinstance(module, LightHira) for module in theirs.modules())
    return theirs, ours


def test_hira_computes_as_peft_does(hiras):
    expected, values = map(outputs_and_gradients, hiras)
    assert max(float(value.abs().max()) for value in values[1:]) > 1e-4
    for value, right in zip(values, expected, strict=True):
        torch.testing.assert_close(value, right, rtol=1e-4, atol=1e-6)


def test_hira_computes_as_peft_does_in_bfloat16(hiras):
    def autocast():
        return torch.autocast("cpu", dtype=torch.bfloat16)

    exact = outputs_and_gradients(hiras[0])
    hiras[0].zero_grad()
    expected, values = (outputs_and_gradients(model, autocast) for model in hiras)
    for value, theirs, right in zip(values, expected, exact, strict=True):
        assert value.dtype == theirs.dtype
        assert float((value - right).norm()) <= 1.5 * float((theirs - right).norm()) + 0.01 * float(
            right.norm()
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_hira_keeps_no_tensor_as_large_as_a_weight(make_base, dtype):
    """`peft` keeps W * (B A) of each layer, in the format that it computes in."""
    theirs, ours = theirs_and_ours(make_base("llama-lm"), peft.HiraConfig(r=3, target_modules="all-linear"))
    kept = []
    for model in (theirs, ours):
        counter = SavedBytes()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16), counter.counting():
            loss = model(inputs_embeds=torch.ones(2, 7, 16, requires_grad=True)).logits.sum()
        kept.append(counter.total)
        del loss
    layers = [module.get_base_layer().weight for module in ours.modules() if isinstance(module, LightHira)]
    assert kept[0] - kept[1] >= sum(weight.numel() for weight in layers) * dtype.itemsize


def hira_on_one_map(weight, signs, size):
    """A linear layer of that weight with HiRA; its B A is `size` in rows of sign 1, `-size` in others."""
    module = torch.nn.Sequential(torch.nn.Linear(*weight.T.shape, bias=False, dtype=weight.dtype))
    module.config = {}
    module[0].weight.data = weight
    model = attach(module, [peft.HiraConfig(r=1, target_modules=["0"])], task_type=None, head_names=())
    layer = model.base_model.model[0]
    layer.hira_A["default"].data.fill_(size)
    layer.hira_B["default"].data.copy_(signs[:, None])
    return model


@pytest.mark.parametrize("size", [0.002, 0.003, 0.01])
def test_gradients_through_hira_in_bfloat16_are_rounded_up_as_often_as_down(size):
    draw = torch.Generator().manual_seed(0)
    weight = torch.empty(256, 64).normal_(std=0.05, generator=draw).bfloat16()
    signs = torch.tensor([1.0, -1.0]).repeat(128)
    model = hira_on_one_map(weight, signs, size)
    x = torch.zeros(256, 64, dtype=torch.bfloat16, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(x).backward(torch.eye(256, dtype=torch.bfloat16))  # so that the gradient is the whole weight
    exact = weight.double() * (1 + size * signs[:, None].double())
    off = (x.grad.double() - exact) / exact
    assert abs(float(off.mean())) < 1e-4
    assert float(off.abs().max()) <= 2**-8 + 1e-4  # half of a last bit
