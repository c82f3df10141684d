"""Plans that were applied, trained and saved, and applied again with their weights: the same outputs."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from peft import PeftModel
from toys.architectures import logits, train
from toys.bases import adapters_of, plan_of_queries, state_of, toy_config

import autopeft
from autopeft import commands
from autopeft.errors import ModelError, RunDirError, SpecError
from autopeft.model import BaseModel
from autopeft.store import write_plan
from autopeft.types import DataSpec, ModelSpec, PlanDocument, TaskSpec

# Architecture and methods, which share the target modules.
CASES = [
    ("bert", ["lora"]),
    ("bert", ["lora", "ia3"]),
    ("bert", ["vera", "miss"]),
    ("llama-lm", ["ia3", "lora"]),
    ("t5-lm", ["lora", "ia3"]),
]


@pytest.fixture
def mixed(make_base, make_plan, methods):
    """A function: architecture and methods -> a plan in which every method has target modules of its own."""

    def mixed(architecture, names, *, rank=2):
        base = make_base(architecture)
        maps = [target for target in base.targets if target.kind == "linear"]
        chosen = []
        for index, name in enumerate(names):
            chosen += adapters_of(methods[name], maps[index :: len(names)], rank=rank)
        return make_plan(base, chosen)

    return mixed


def trained(plan, module, inputs):
    model = autopeft.apply(plan, module)
    train(model, inputs)
    return model


@pytest.mark.parametrize(("architecture", "names"), CASES, ids=lambda value: "-".join(value))
def test_a_saved_plan_gives_the_same_outputs_when_it_is_applied_again_and_by_plain_peft(
    architecture, names, mixed, make_base, batch_for, tmp_path
):
    base, plan = make_base(architecture), mixed(architecture, names)
    inputs = batch_for(base)
    model = trained(plan, base.module, inputs)
    before = logits(model, inputs)
    autopeft.save(model, tmp_path / "weights")
    document = PlanDocument(
        plan=plan, model=ModelSpec(), data=DataSpec(), task=TaskSpec(), base_params=1, head_params=0,
        schedule="cosine", seed=0,
    )  # fmt: skip
    write_plan(tmp_path / "plan.yaml", document)
    read = autopeft.load_plan(tmp_path)
    untrained = autopeft.apply(read, make_base(architecture).module, seed=7)
    assert not torch.allclose(logits(untrained, inputs), before, atol=1e-4)
    again = autopeft.apply(read, make_base(architecture).module, seed=7, weights=tmp_path / "weights")
    assert torch.equal(logits(again, inputs), before)
    plain, folder = make_base(architecture).module, tmp_path / "weights"
    if len(names) == 1:
        plain = PeftModel.from_pretrained(plain, folder)
    else:
        *beneath, last = json.loads((folder / "order.json").read_text())
        for name in beneath:  # the README's way
            plain = PeftModel.from_pretrained(plain, folder / name).merge_and_unload()
        plain = PeftModel.from_pretrained(plain, folder / last)
    torch.testing.assert_close(logits(plain, inputs), before, rtol=0, atol=1e-5)


def test_the_weights_of_a_run_are_applied_with_what_was_missing_from_the_checkpoint(
    tokenizer, data_dir, batch_for, tmp_path
):
    """A checkpoint without head: its pooler was drawn at random, and is trained and kept with the head."""
    model_dir = tmp_path / "model"
    transformers.BertModel(toy_config("bert"), add_pooling_layer=False).save_pretrained(model_dir)
    tokenizer.save_pretrained(model_dir)
    write_plan(tmp_path / "plan.yaml", plan_of_queries(model_dir, data_dir, max_steps=4))
    folder = commands.train_plan(tmp_path / "plan.yaml", out=tmp_path / "adapter").folder
    kept = json.loads((folder / "adapter_config.json").read_text())["modules_to_save"]
    assert "bert.pooler.dense" in kept

    def fresh():
        auto = transformers.AutoModelForSequenceClassification
        return auto.from_pretrained(model_dir, num_labels=2)

    inputs = batch_for(BaseModel(fresh(), None, name="toy bert", untrained=frozenset()))
    model = autopeft.apply(autopeft.load_plan(folder), fresh(), weights=folder)
    expected = logits(PeftModel.from_pretrained(fresh(), folder), inputs)
    assert torch.equal(logits(model, inputs), expected)


@pytest.mark.parametrize(
    ("names", "rank", "message"),
    [
        (["lora", "ia3"], 1, "2 × 16 as .*lora_A.*, the config needs 1 × 16"),
        (["lora", "miss"], 2, "does not exist"),
        (["ia3"], 2, "does not exist"),
    ],
)
def test_weights_of_another_plan_are_refused_and_leave_the_module(
    names, rank, message, mixed, make_base, batch_for, tmp_path
):
    base = make_base("bert")
    model = trained(mixed("bert", ["lora", "ia3"]), base.module, batch_for(base))
    autopeft.save(model, tmp_path / "weights")
    module = make_base("bert").module.requires_grad_(True).train()
    before = vars(state_of(module))
    with pytest.raises(SpecError, match=message):
        autopeft.apply(mixed("bert", names, rank=rank), module, weights=tmp_path / "weights")
    assert vars(state_of(module)) == before


def test_what_cannot_be_saved_is_refused(mixed, make_base, tmp_path):
    module = make_base("bert").module
    with pytest.raises(ModelError, match=r"autopeft.apply"):
        autopeft.save(module, tmp_path / "weights")
    model = autopeft.apply(mixed("bert", ["lora"]), module)
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(RunDirError, match="not empty"):
        autopeft.save(model, tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"
