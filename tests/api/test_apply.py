"""A plan on a user's own model: what trains, what is saved, what is refused."""

from __future__ import annotations

import pytest
import torch
from toys.bases import adapters_of, state_of
from toys.memory import same_weights, weights_of

import autopeft
from autopeft.errors import (
    ModelError,
    SpecError,
    TargetError,
)


@pytest.mark.parametrize("method", ["lora", "ia3", "bitfit"])
def test_applied_plan_trains_its_adapters_and_the_head_alone(module, make_base, make_plan, batch_for, method):
    base = make_base("bert")
    plan = make_plan(base, method)
    before = weights_of(module)
    model = autopeft.apply(plan, module)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    n_head = sum(p.numel() for name, p in trained.items() if "classifier" in name)
    assert sum(p.numel() for p in trained.values()) == plan.trainable_params + n_head
    assert n_head == sum(p.numel() for name, p in before.items() if name.startswith("classifier"))
    assert model.training
    assert type(model).__name__ == "PeftModelForSequenceClassification"
    optimizer = torch.optim.AdamW(trained.values(), lr=plan.learning_rate)
    batch = batch_for(base)
    start = model(**batch).loss
    for _ in range(20):
        optimizer.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
    assert loss < start
    frozen = {name.replace("base_model.model.", ""): p for name, p in model.named_parameters()}
    kept = [name for name in before if name in frozen and not frozen[name].requires_grad]
    assert kept and all(torch.equal(frozen[name], before[name]) for name in kept)


def test_plan_that_does_not_fit_is_refused_and_leaves_the_module(module, make_base, make_plan):
    weights, state = weights_of(module), state_of(module)
    plan = make_plan(make_base("gpt2"), "lora")
    with pytest.raises(TargetError):
        autopeft.apply(plan, module)
    wider = make_plan(make_base("bert", hidden=32), "lora")
    with pytest.raises(SpecError, match="1,920"):
        autopeft.apply(wider, module)
    assert same_weights(weights, weights_of(module))
    assert vars(state_of(module)) == vars(state)


def test_plan_of_a_mix_attaches_both_methods_and_saves_a_folder_each(
    module, make_base, make_plan, methods, tmp_path
):
    targets = make_base("bert").targets
    base = make_base("bert")
    mix = [
        *adapters_of(methods["lora"], targets[:8], rank=2),
        *adapters_of(methods["ia3"], targets[8:], rank=0),
    ]
    plan = make_plan(base, mix)
    model = autopeft.apply(plan, module)
    n_head = sum(p.numel() for name, p in module.named_parameters() if "classifier.modules_to_save" in name)
    n_trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert n_trained - n_head == plan.trainable_params
    model.save_pretrained(tmp_path / "mix")
    assert len(list((tmp_path / "mix").glob("*/adapter_model.safetensors"))) == 2


def test_what_is_not_a_plan_is_refused(module):
    with pytest.raises(SpecError, match="load_plan"):
        autopeft.apply("reports/run", module)


def test_second_plan_on_one_module_is_refused(module, make_base, make_plan):
    plan = make_plan(make_base("bert"), "lora")
    model = autopeft.apply(plan, module)
    for holder in (model, module):
        with pytest.raises(ModelError, match="peft"):
            autopeft.apply(plan, holder)
