"""Attention masks of which it is known whether they have padding: what models make of them."""

from __future__ import annotations

import pytest
import torch
from toys.bases import toy_base
from transformers.masking_utils import (
    ALL_MASK_ATTENTION_FUNCTIONS,
    create_bidirectional_mask,
    create_causal_mask,
)

from autopeft.model import heeding_known_masks, heeds_known_masks, known_mask
from autopeft.model.known_masks import KnownMask

WHOLE = torch.ones(2, 5, dtype=torch.int64)
PADDED = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
masks = pytest.mark.parametrize("mask", [WHOLE, PADDED], ids=["whole", "padded"])


def known(mask):
    return known_mask(mask.clone(), has_padding=bool((mask == 0).any()))


@masks
def test_casts_and_views_stay_known_and_all_else_is_a_plain_tensor(mask):
    casts = known(mask).to(torch.bool), known(mask).to(device="cpu", dtype=torch.float32)
    for made in (*casts, known(mask).view(-1, 5), known(mask).view(1, 2, -1)):
        assert isinstance(made, KnownMask)
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
    with heeding_known_masks():
        for given in (known(mask), mask):
            made = make(config, states, given, cache=None)
            assert type(made) is type(plain)
            assert made is plain is None or torch.equal(made, plain)


def test_mask_that_a_model_makes_by_itself_is_looked_at():
    """A decoder's mask may have the shape of the batch's, and padding where that has none."""
    config, states = toy_base("llama-lm").module.config, torch.zeros(2, 5, 16)
    with heeding_known_masks():
        made = create_causal_mask(config, states, known(WHOLE) * PADDED, cache=None)
    assert torch.equal(made, create_causal_mask(config, states, PADDED, cache=None))


def test_context_leaves_the_functions_of_transformers_as_they_were():
    before = ALL_MASK_ATTENTION_FUNCTIONS["sdpa"]
    with heeding_known_masks():
        outer = ALL_MASK_ATTENTION_FUNCTIONS["sdpa"]
        with pytest.raises(RuntimeError, match="stop"), heeding_known_masks():
            raise RuntimeError("stop")
        assert ALL_MASK_ATTENTION_FUNCTIONS["sdpa"] is outer is not before
    assert ALL_MASK_ATTENTION_FUNCTIONS["sdpa"] is before
    assert "sdpa" not in ALL_MASK_ATTENTION_FUNCTIONS._local_mapping


def test_models_with_another_attention_are_left_alone():
    module = toy_base("llama-lm").module
    assert heeds_known_masks(module)
    module.set_attn_implementation("eager")
    assert not heeds_known_masks(module)
