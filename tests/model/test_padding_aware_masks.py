"""Attention masks of which it is known whether they have padding: what models make of them."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses import FakeTensorMode
from toys.bases import toy_base
from transformers.integrations import sdpa_attention
from transformers.masking_utils import (
    create_bidirectional_mask,
    create_causal_mask,
    create_sliding_window_causal_mask,
)

from autopeft.model.training_pass import PaddingAwareMask, padding_aware, quick_attention

WHOLE = torch.ones(2, 5, dtype=torch.int64)
PADDED = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])
RIGHT = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])
masks = pytest.mark.parametrize("mask", [WHOLE, PADDED], ids=["whole", "padded"])


def known(mask):
    return padding_aware(mask.clone(), seen_as=mask)


@masks
def test_casts_and_views_stay_known_and_all_else_is_a_plain_tensor(mask):
    casts = known(mask).to(torch.bool), known(mask).to(device="cpu", dtype=torch.float32)
    for made in (*casts, known(mask).view(-1, 5), known(mask).view(1, 2, -1)):
        assert isinstance(made, PaddingAwareMask)
        assert made.has_padding == bool((mask == 0).any())
    whole = known(mask)
    others = [whole[:1], whole[:, 1:], whole.cumsum(-1), 1 - whole, torch.cat([whole, whole], dim=1)]
    others += [whole.clone(), whole.view(torch.int32)]  # the latter has zeros in any case
    assert [type(made) for made in others] == [torch.Tensor] * len(others)
    assert torch.equal(whole.cumsum(-1), mask.cumsum(-1))


@masks
@pytest.mark.parametrize("make", [create_causal_mask, create_bidirectional_mask])
@pytest.mark.parametrize("n_queries", [5, 3, 1])
def test_models_get_the_mask_that_they_get_otherwise(make, n_queries, mask):
    config, states = toy_base("llama-lm").module.config, torch.zeros(2, n_queries, 16)
    plain = make(config, states, mask, cache=None)
    with quick_attention():
        for given in (known(mask), mask):
            made = make(config, states, given, cache=None)
            assert type(made) is type(plain)
            assert made is plain is None or torch.equal(made, plain)


def test_causal_attention_needs_no_mask_for_padding_on_the_right():
    """It does where queries are fewer than keys, where rows are packed, and where all tokens are seen."""
    config, states = toy_base("llama-lm").module.config, torch.zeros(3, 5, 16)
    blocks = torch.zeros(3, 5, dtype=torch.int64)

    def visible(query, key):
        return key >= 0

    with quick_attention():
        assert create_causal_mask(config, states, known(RIGHT), cache=None) is None
        for make, given, options in (
            (create_causal_mask, states[:, :3], {}),
            (create_causal_mask, states, {"block_sequence_ids": blocks}),
            (create_causal_mask, states, {"or_mask_function": lambda b, h, query, key: visible(query, key)}),
            (create_bidirectional_mask, states, {}),
        ):
            made = make(config, given, known(RIGHT), cache=None, **options)
            assert torch.equal(made, make(config, given, RIGHT, cache=None, **options))


@pytest.mark.parametrize("window", [2, 5, 9])
def test_sliding_windows_stay_and_hide_no_token_more_or_less(window):
    config, states = toy_base("llama-lm").module.config, torch.zeros(3, 5, 16)
    config.sliding_window = window
    causal = torch.ones(5, 5, dtype=torch.bool).tril()
    with quick_attention():
        made = create_sliding_window_causal_mask(config, states, known(RIGHT), cache=None)
    seen = causal.expand(3, 1, 5, 5) if made is None else made
    expected = causal & ~torch.ones(5, 5, dtype=torch.bool).tril(-window)
    for row, n_tokens in enumerate(RIGHT.sum(-1)):
        assert torch.equal(seen[row, 0, :n_tokens], expected[:n_tokens])
    assert made is None or made.any(-1).all()  # a query without a key would be NaN in some kernels


@pytest.mark.parametrize("architecture", ["llama-lm", "gpt2-lm", "moe-lm", "llama", "gpt2"])
def test_losses_and_gradients_are_those_of_an_attention_that_takes_the_mask(architecture, attach, make_plan):
    """`eager` multiplies by a mask that it is given; padding has no loss, and a row of it is no NaN."""
    base = toy_base(architecture)
    plan = make_plan(base, "lora", rank=2)
    mask = torch.cat([RIGHT, torch.zeros(1, 5, dtype=torch.int64)]) if "lm" in architecture else RIGHT
    ids = torch.randint(4, 20, mask.shape, generator=torch.Generator().manual_seed(0)) * mask
    labels = torch.where(mask == 1, ids, -100) if "lm" in architecture else torch.tensor([0, 1, 0])
    found = {}
    for name in ("sdpa", "eager"):
        base.module.set_attn_implementation(name)
        given = known(mask) if name == "sdpa" else mask
        with attach(base, plan) as adapted, quick_attention():
            parameters = [p for p in adapted.parameters() if p.requires_grad]
            draw = torch.Generator().manual_seed(1)
            for parameter in parameters:
                parameter.data.normal_(std=0.1, generator=draw)
            loss = adapted(input_ids=ids, attention_mask=given, labels=labels).loss
            loss.backward()
            found[name] = loss.detach(), *(p.grad for p in parameters)
    torch.testing.assert_close(found["sdpa"], found["eager"], rtol=1e-4, atol=1e-6)


def test_mask_that_a_model_makes_by_itself_is_looked_at():
    """A decoder's mask may have the shape of the batch's, and padding where that has none."""
    config, states = toy_base("llama-lm").module.config, torch.zeros(2, 5, 16)
    with quick_attention():
        made = create_causal_mask(config, states, known(WHOLE) * PADDED, cache=None)
    assert torch.equal(made, create_causal_mask(config, states, PADDED, cache=None))


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
