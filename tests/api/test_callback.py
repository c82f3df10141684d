"""`SensitivityCallback`: the shares of a step are those of its gradients, and reach the trainer's log."""

from __future__ import annotations

import copy
import logging
import re

import pytest
import torch
from peft import LoraConfig, get_peft_model
from toys.memory import toy_dataset
from transformers import Trainer, TrainerCallback, TrainingArguments

import autopeft

LAYER = re.compile(r"encoder\.layer\.(\d+)\.")


class Snapshots(TrainerCallback):
    """Keeps weights and gradients of each step by name, before the optimizer changes them."""

    def __init__(self):
        self.steps = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.steps.append(
            [
                (name, p.detach().clone(), p.grad.clone())
                for name, p in model.named_parameters()
                if p.grad is not None
            ]
        )


def trained(module, tokenizer, tmp_path, *, every_steps, n_steps=4):
    data = toy_dataset(32).map(lambda row: tokenizer(row["text"], truncation=True))
    arguments = TrainingArguments(
        str(tmp_path),
        max_steps=n_steps,
        learning_rate=1e-3,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = Trainer(model=module, args=arguments, train_dataset=data, processing_class=tokenizer)
    watching, snapshots = autopeft.SensitivityCallback(trainer, every_steps=every_steps), Snapshots()
    trainer.add_callback(watching)
    trainer.add_callback(snapshots)
    trainer.train()
    return trainer, watching, snapshots


def expected_shares(step):
    sums = {}
    for name, weight, gradient in step:
        if "classifier" not in name:
            layer = int(found[1]) if (found := LAYER.search(name)) else "outside"
            sums[layer] = sums.get(layer, 0.0) + float((weight * gradient).abs().sum())
    return {layer: value / sum(sums.values()) for layer, value in sums.items()}


@pytest.fixture
def module(make_base):
    return copy.deepcopy(make_base("bert").module).requires_grad_(True)


def test_shares_of_full_fine_tuning_are_those_of_its_gradients(module, tokenizer, tmp_path):
    trainer, watching, snapshots = trained(module, tokenizer, tmp_path, every_steps=2)
    assert [step for step, _ in watching.history] == [2, 4]
    for step, shares in watching.history:
        expected = expected_shares(snapshots.steps[step - 1])
        assert list(shares.values()) == pytest.approx(list(expected.values()), rel=1e-4)
        assert [name.rpartition(".")[2] for name in shares] == [str(layer) for layer in expected]
        assert sum(shares.values()) == pytest.approx(1.0)
    logged = [entry for entry in trainer.state.log_history if any("sensitivity" in key for key in entry)]
    assert [entry["step"] for entry in logged] == [2, 4]
    first = "outside"  # embeddings and the pooler
    assert logged[0][f"sensitivity/{first}"] == watching.history[0][1][first]


def test_adapters_count_for_the_layers_that_they_are_attached_to(module, tokenizer, tmp_path):
    names = {name for name in dict(module.named_modules()) if re.fullmatch(r".*encoder\.layer\.\d+", name)}
    adapted = get_peft_model(module, LoraConfig(task_type="SEQ_CLS", target_modules=["query", "value"]))
    _, watching, snapshots = trained(adapted, tokenizer, tmp_path, every_steps=3)
    ((step, shares),) = watching.history
    expected = expected_shares(snapshots.steps[step - 1])
    assert list(shares.values()) == pytest.approx(list(expected.values()), rel=1e-4)
    assert set(shares) == names


def test_model_without_gradients_in_its_layers_gives_one_warning(module, tokenizer, tmp_path, caplog):
    module.base_model.requires_grad_(False)
    with caplog.at_level(logging.WARNING, logger="autopeft"):
        _, watching, _ = trained(module, tokenizer, tmp_path, every_steps=1)
    assert watching.history == []
    assert len([r for r in caplog.records if "No layer has a gradient above 0 at step 1" in r.message]) == 1


def test_weights_are_trained_as_without_the_callback(module, tokenizer, tmp_path):
    other = copy.deepcopy(module)
    trained(module, tokenizer, tmp_path, every_steps=1)
    trained(other, tokenizer, tmp_path, every_steps=100)
    pairs = zip(module.state_dict().values(), other.state_dict().values(), strict=True)
    assert all(torch.equal(one, two) for one, two in pairs)


def test_steps_below_one_are_refused():
    with pytest.raises(ValueError, match="every_steps is 0; it should be at least 1"):
        autopeft.SensitivityCallback(None, every_steps=0)
