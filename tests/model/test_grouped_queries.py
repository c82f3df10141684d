"""Keys of grouped queries are repeated where flash attention does not take them; cuDNN's kernel is off."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses import FakeTensorMode
from transformers.integrations import sdpa_attention

from autopeft.model.training_pass import quick_attention
from autopeft.train import Compute


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
