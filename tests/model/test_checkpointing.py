"""Gradient checkpointing changes memory and no gradient, and leaves no trace."""

from __future__ import annotations

import pytest
import torch

from autopeft.model.devices import SavedBytes
from autopeft.model.training_pass import can_checkpoint, checkpointed


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
