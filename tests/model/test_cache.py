"""Forward passes without a cache, which `generate` still fills."""

from __future__ import annotations

import torch

from autopeft.model.training_pass import without_cache


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
