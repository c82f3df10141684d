"""Keys of grouped queries are repeated where flash attention does not take them."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses import FakeTensorMode
from transformers.integrations import sdpa_attention

from autopeft.model.training_pass import quick_attention


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
