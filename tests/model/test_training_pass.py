"""Contexts of training passes: no cache, the kernels of attention, and gradient checkpointing."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses import FakeTensorMode
from transformers.integrations import sdpa_attention

from autopeft.model.devices import SavedBytes
from autopeft.model.training_pass import can_checkpoint, checkpointed, quick_attention, without_cache
from autopeft.train import Compute


def lengths_of_calls(model, ids):
    """Tokens of each call of the model in generating four tokens."""
    seen = []
    hook = model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    model.generate(input_ids=ids, max_new_tokens=4, do_sample=False, eos_token_id=None)
    hook.remove()
    return seen


def test_forward_fills_no_cache_and_generation_does(make_base):
    base = make_base("llama-lm")
    ids = torch.tensor([[2, 5, 6]])
    assert base.module(input_ids=ids).past_key_values is not None
    with without_cache(base.module):
        assert base.module(input_ids=ids).past_key_values is None
        assert lengths_of_calls(base.module, ids) == [3, 1, 1, 1]
    assert base.module.config.use_cache


@pytest.mark.parametrize(
    ("capability", "dtype", "autocast", "shares"),
    [
        ((8, 0), torch.bfloat16, None, True),
        ((8, 0), torch.float32, torch.bfloat16, True),
        ((8, 0), torch.float32, None, False),
        ((7, 5), torch.float16, None, False),
    ],
)
def test_keys_are_repeated_for_their_queries_where_flash_attention_does_not_take_them(
    capability, dtype, autocast, shares, monkeypatch
):
    """With fewer heads of keys than of queries, and no mask, torch would write all T x T products."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: autocast is not None)
    monkeypatch.setattr(torch, "get_autocast_dtype", lambda kind: autocast)
    usual = sdpa_attention.use_gqa_in_sdpa
    with FakeTensorMode(), quick_attention():
        keys = torch.empty(1, 2, 8, 16, dtype=dtype, device="cuda")
        assert sdpa_attention.use_gqa_in_sdpa(None, keys, keys) is shares
    assert sdpa_attention.use_gqa_in_sdpa is usual


def test_layers_that_are_computed_again_use_the_same_kernels(make_base, make_bench, make_plan, fidelity):
    bench = make_bench(base=make_base("bert"), compute=Compute(checkpointing=True))
    plan, seen = make_plan(bench.base, "lora"), []
    attention = bench.base.module.bert.encoder.layer[0].attention
    attention.register_forward_pre_hook(
        lambda *_: seen.append((torch.is_grad_enabled(), torch.backends.cuda.cudnn_sdp_enabled()))
    )
    before = torch.backends.cuda.cudnn_sdp_enabled()
    bench.head_rates  # noqa: B018, measured once on the base model
    seen.clear()
    assert bench.measure(plan, fidelity(train_steps=1)).error is None
    assert seen[:2] == [(True, False)] * 2  # forward, and again for the backward pass
    assert not any(is_on for _, is_on in seen)
    assert torch.backends.cuda.cudnn_sdp_enabled() is before


def flags_of(module):
    names = ("gradient_checkpointing", "_gradient_checkpointing_func")
    switches = [{n: vars(m).get(n) for n in names if n in vars(m)} for m in module.modules()]
    return switches, getattr(module.config, "use_cache", None)


def step(model, batch):
    """Gradients of one step in training mode, and the bytes that it saved for backward."""
    counter = SavedBytes()
    model.train()
    torch.manual_seed(0)  # dropout
    with counter.counting():
        loss = model(**batch).loss
    saved = counter.total
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return gradients, saved


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "llama-lm", "t5-lm"])
@pytest.mark.filterwarnings("error::FutureWarning")
def test_gradients_are_the_same_and_less_is_saved(architecture, make_base, make_plan, attach, batch_for):
    base = make_base(architecture, dropout=0.2)
    before, batch = flags_of(base.module), batch_for(base)
    with attach(base, make_plan(base, "lora")) as model:
        assert can_checkpoint(model)
        plain, saved = step(model, batch)
        with checkpointed(base.module):
            seen, fewer = step(model, batch)
        again, as_before = step(model, batch)
    assert fewer < 0.6 * saved == 0.6 * as_before
    assert seen.keys() == plain.keys() == again.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(seen[name], gradient, atol=1e-6, rtol=1e-5)
    assert flags_of(base.module) == before
