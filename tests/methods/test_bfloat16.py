"""Every method on a base model that is held in bfloat16, compared with the same in float32."""

from __future__ import annotations

import contextlib

import pytest
import torch
from peft.tuners.lora import LoraLayer
from toys.bases import PEFT_TASKS, state_of, toy_base

from autopeft.adapters import compile_plan
from autopeft.plugins import discover

METHODS = discover("autopeft.methods")
ARCHITECTURES = ("bert", "llama-lm")
STEPS = 6


def variants():
    """Architecture, method and settings of each option in turn, wherever the method fits; by day few."""
    found = []
    for architecture in ARCHITECTURES:
        targets = toy_base(architecture).targets
        for name, method in METHODS.items():
            if any(method.refusal(target) is None for target in targets):
                options = [(key, value) for key, values in method.choices.items() for value in values[1:]]
                chosen = [{}, *({key: value} for key, value in options if key != "scale_rule")]
                for settings in chosen:
                    words = f"{architecture}-{name}-{settings}"
                    is_daily = (architecture == "bert" and not settings) or "dora" in settings
                    marks = () if is_daily else pytest.mark.nightly
                    found.append(pytest.param(architecture, name, settings, id=words, marks=marks))
    return found


def trained(base, plan, batch, *, attach):
    """Losses of each step, types of what is trained, its count, and whether all gradients are finite."""
    with attach(base, plan) as adapted:
        parameters = [p for p in adapted.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=3e-3, weight_decay=0.0)
        losses, is_finite = [], True
        for _ in range(STEPS):
            with base.autocast():
                loss = adapted.train()(**batch).loss
            loss.backward()
            is_finite &= all(p.grad is not None and bool(p.grad.isfinite().all()) for p in parameters)
            losses.append(float(loss))
            optimizer.step()
            optimizer.zero_grad()
        return losses, {p.dtype for p in parameters}, sum(p.numel() for p in parameters), is_finite


@pytest.mark.parametrize(("architecture", "name", "choices"), variants())
def test_method_trains_in_float32_on_a_base_in_bfloat16_as_on_one_in_float32(
    architecture, name, choices, make_base, make_plan, attach, batch_for
):
    exact, held = make_base(architecture), make_base(architecture, dtype="bfloat16")
    plan = make_plan(exact, name, rank=4, **choices)
    before = held.sha256(), state_of(held.module)
    batch = batch_for(exact)
    losses, _, n_trained, _ = trained(exact, plan, batch, attach=attach)
    low_losses, dtypes, n_trained_low, is_finite = trained(held, plan, batch, attach=attach)
    assert dtypes == {torch.float32}
    assert is_finite
    assert n_trained == n_trained_low == plan.trainable_params + exact.head_params
    # bfloat16 rounds by 0.4 %; AdamW's first step depends on the signs of small gradients.
    assert low_losses == pytest.approx(losses, rel=0.1, abs=0.01)
    assert (held.sha256(), state_of(held.module)) == before


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    "architecture",
    ["llama-lm", *(pytest.param(name, marks=pytest.mark.nightly) for name in ("gpt2-lm", "t5-lm"))],
)
def test_language_model_to_keep_computes_without_autocast_but_for_norms(architecture, name, make_plan):
    """`result.load()` gives such a model; see `loading_place`."""
    base = toy_base(architecture, dtype="bfloat16")
    norms = {target.name for target in base.targets if target.kind == "norm"}
    plan = make_plan(base, name, rank=2)
    if not plan.adapters or not norms.isdisjoint(adapter.target for adapter in plan.adapters):
        pytest.skip("it fits norms or nothing")
    configs = compile_plan(plan, METHODS).configs
    kept = base.attach_for_good(configs, plan=plan, task_type=PEFT_TASKS[architecture], seed=0).eval()
    draw = torch.Generator().manual_seed(0)
    for parameter in kept.parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.empty(parameter.shape).normal_(std=0.05, generator=draw))
    ids = torch.arange(4, 16).reshape(2, 6)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    with torch.no_grad():
        with base.autocast():
            expected = kept(**batch).logits.float()
        torch.testing.assert_close(
            kept(**batch).logits.float(), expected, rtol=0, atol=0.05 * float(expected.abs().max())
        )
        assert (
            kept.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=2).shape[0] == 2
        )


def test_inputs_that_lora_takes_as_they_are_give_the_same_losses(make_base, make_plan, attach, batch_for):
    base = make_base("bert", dtype="bfloat16")
    plan, batch = make_plan(base, "lora", rank=4), batch_for(base)
    losses, *_ = trained(base, plan, batch, attach=attach)
    with_casts, *_ = trained(base, plan, batch, attach=casting(attach))
    assert losses == with_casts


def casting(attach):
    """The context manager `attach`, with `peft`'s casts of inputs to float32 restored."""

    @contextlib.contextmanager
    def attached(base, plan):
        with attach(base, plan) as model:
            layers = [m for m in model.modules() if isinstance(m, LoraLayer)]
            assert layers and not any(layer.cast_input_dtype_enabled for layer in layers)
            for layer in layers:
                layer.cast_input_dtype_enabled = True
            yield model

    return attached
