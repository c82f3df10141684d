"""A user's own file becomes a plan: what peft makes of the file and of the plan is the same."""

from __future__ import annotations

import json
from pathlib import Path

import peft
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from toys import architectures as model_toys

from autopeft.adapters import check_user_file, common_learning_rate, compile_plan, is_adapter, read_user_plan
from autopeft.errors import SpecError, TargetError
from autopeft.plugins import discover
from autopeft.space import AllocationContext, Policy, plan_of
from autopeft.store import write_plan
from autopeft.types import Adapter, DataSpec, ModelSpec, Plan, PlanDocument, TaskSpec

METHODS = discover("autopeft.methods")
ARCHITECTURES = ("bert", "distilbert", "gpt2", "llama")
BASES = {name: model_toys.build(name, "SEQ_CLS") for name in ARCHITECTURES}
ENDINGS = {
    "bert": ["query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense"],
    "distilbert": ["q_lin", "k_lin", "v_lin", "out_lin", "ffn.lin1", "ffn.lin2"],
    "gpt2": ["c_attn", "attn.c_proj", "c_fc", "mlp.c_proj"],
    "llama": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}


def saved(config, folder):
    config.save_pretrained(str(folder))
    return folder / "adapter_config.json"


def layers(model, base):
    """Module -> rank, scale and trainable numbers of what peft attached, the task head apart."""
    attached = {}
    for name, layer in model.get_base_model().named_modules():
        is_head = name.split(".")[0] in ("classifier", "score", "pre_classifier")
        if isinstance(layer, BaseTunerLayer) and not name.endswith(".base_layer") and not is_head:
            ranks = getattr(layer, "r", None) or {"": 0}
            scales = getattr(layer, "scaling", None) or {"": 1.0}
            count = sum(p.numel() for p in layer.parameters() if p.requires_grad)
            attached[name] = (*(ranks.values() if isinstance(ranks, dict) else [0]), *scales.values(), count)
    return attached


def check_same(architecture, config, folder):
    """The plan of a config attaches what the config does on a model of its own."""
    base = BASES[architecture]
    path = saved(config, folder)
    user_plan = read_user_plan(path, base, METHODS)
    assert user_plan.plan.learning_rate == 0.0
    other = model_toys.build(architecture, "SEQ_CLS")
    config = peft.PeftConfig.from_pretrained(str(folder))
    config.task_type, config.modules_to_save = "SEQ_CLS", list(base.head_names)
    config.inference_mode = False
    expected = layers(peft.get_peft_model(other.module, config), other)
    compiled = compile_plan(user_plan.plan, METHODS).configs
    with base.attached(compiled, plan=user_plan.plan, task_type="SEQ_CLS", seed=0) as model:
        attached = layers(model, base)
    assert {name: pytest.approx(numbers, rel=1e-9) for name, numbers in expected.items()} == attached
    assert user_plan.plan.trainable_params == sum(numbers[-1] for numbers in expected.values())
    return user_plan


@st.composite
def lora_configs(draw):
    """A LoRA config as people write them, for one of the toys; regular expressions and patterns too."""
    architecture = draw(st.sampled_from(ARCHITECTURES))
    endings = draw(st.lists(st.sampled_from(ENDINGS[architecture]), min_size=1, max_size=3, unique=True))
    targets = draw(
        st.sampled_from(["all-linear", endings, rf".*\.({'|'.join(endings)})", rf".*1\..*({endings[0]})"])
    )
    rank, alpha = st.integers(1, 8), st.sampled_from([1, 3, 8, 16, 32])
    pattern = st.sampled_from([endings[0], rf"1\..*\.{endings[0]}", "nowhere"])
    config = LoraConfig(
        r=draw(rank),
        lora_alpha=draw(alpha),
        target_modules=targets,
        rank_pattern=draw(st.dictionaries(pattern, rank, max_size=2)),
        alpha_pattern=draw(st.dictionaries(pattern, alpha, max_size=2)),
        use_dora=draw(st.booleans()),
        use_rslora=draw(st.booleans()),
        lora_dropout=draw(st.sampled_from([0.0, 0.1])),
        exclude_modules=draw(st.sampled_from([None, [endings[-1]], rf".*0\..*{endings[0]}"])),
        layers_to_transform=draw(st.sampled_from([None, 0, [1]])) if isinstance(targets, list) else None,
        task_type=draw(st.sampled_from([None, "SEQ_CLS", "CAUSAL_LM"])),
    )
    return architecture, config


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(lora_configs())
def test_any_lora_config_attaches_the_same_as_its_plan(tmp_path_factory, drawn):
    architecture, config = drawn
    module = model_toys.skeleton(architecture, "SEQ_CLS").module
    try:
        peft.get_peft_model(module, LoraConfig(**{**config.to_dict(), "task_type": None}))
    except ValueError:
        assume(False)  # everything is excluded, and peft refuses it
    user_plan = check_same(architecture, config, tmp_path_factory.mktemp("config"))
    assert any("lora_dropout" in note for note in user_plan.notes) == bool(config.lora_dropout)
    assert {adapter.method for adapter in user_plan.plan.adapters} == {"lora"}


def test_a_rank_above_the_smaller_side_of_a_layer_is_kept_as_peft_allows(tmp_path):
    config = LoraConfig(r=20, target_modules=["intermediate.dense"])
    assert check_same("bert", config, tmp_path).notes == ()


def test_several_configs_are_one_plan(tmp_path):
    base, names = BASES["bert"], ("first", "second")
    for name, target in zip(names, ("query", "key"), strict=True):
        saved(LoraConfig(r=2, target_modules=[target]), tmp_path / name)
    (tmp_path / "order.json").write_text(json.dumps(names))
    plan = read_user_plan(tmp_path, base, METHODS).plan
    assert {a.target.rpartition(".")[2] for a in plan.adapters} == {"query", "key"}
    assert plan.trainable_params == 2 * 2 * 2 * 32  # hidden size 16, two layers
    saved(LoraConfig(r=1, target_modules=["key", "value"]), tmp_path / "first")
    with pytest.raises(TargetError, match="key"):
        read_user_plan(tmp_path, base, METHODS)


LORA = {"r": 2, "target_modules": ["query"]}


@pytest.mark.parametrize(
    ("config", "word"),
    [
        (LoraConfig(**LORA, bias="all"), "bias"),
        (LoraConfig(**LORA, init_lora_weights="pissa"), "pissa"),
        (LoraConfig(**LORA, modules_to_save=["word_embeddings"]), "word_embeddings"),
        (LoraConfig(r=2, target_modules=["classifier"]), "head"),
        (LoraConfig(r=99, target_modules=["query"]), "99"),
        (LoraConfig(r=2, target_modules=["c_attn"]), "c_attn"),
        (peft.VeraConfig(target_modules=["query"]), "VERA"),
    ],
)
def test_config_that_a_plan_cannot_hold_is_refused(config, word, tmp_path):
    with pytest.raises((SpecError, TargetError), match=word):
        read_user_plan(saved(config, tmp_path), BASES["bert"], METHODS)


def test_a_head_that_is_saved_is_what_every_plan_does(tmp_path):
    config = LoraConfig(**LORA, task_type="SEQ_CLS", modules_to_save=["classifier", "score"])
    assert read_user_plan(saved(config, tmp_path), BASES["bert"], METHODS).notes == ()


def test_names_that_match_nothing_and_targets_in_the_head_are_noted(tmp_path):
    config = LoraConfig(r=2, target_modules=["query", "nowhere", "classifier"])
    first, second = read_user_plan(saved(config, tmp_path), BASES["bert"], METHODS).notes
    assert "classifier" in first and "nowhere" in second


# Plans.


def document(base, plan):
    sizes = {"base_params": base.base_params, "head_params": base.head_params}
    spec = {"model": ModelSpec(id="some/model"), "data": DataSpec(), "task": TaskSpec()}
    return PlanDocument(plan=plan, **spec, **sizes, schedule="constant", seed=0)


def a_plan(base) -> Plan:
    scores = {target.name: 1.0 for target in base.targets}
    context = AllocationContext(targets=base.targets, scores=scores, methods=METHODS, max_params=2000)
    return plan_of(Policy(method="lora", learning_rate=2e-3), context)


@pytest.mark.parametrize("where", ["plan.yaml", "best/plan.yaml"])
def test_a_plan_or_a_run_is_taken_as_it_is(where, tmp_path):
    base = BASES["bert"]
    plan = a_plan(base)
    (tmp_path / where).parent.mkdir(exist_ok=True)
    write_plan(tmp_path / where, document(base, plan))
    assert not is_adapter(tmp_path)
    saved(LoraConfig(**LORA), tmp_path)  # next to it, as `train` leaves them
    for path in (tmp_path, tmp_path / where):
        check_user_file(path)  # which raises for what cannot be read
    user_plan = read_user_plan(tmp_path, base, METHODS)
    assert user_plan.plan == plan


def test_a_plan_of_another_model_is_refused(tmp_path):
    path = Path(tmp_path / "plan.yaml")
    write_plan(path, document(BASES["bert"], a_plan(BASES["bert"])))
    with pytest.raises(TargetError, match="target module"):
        read_user_plan(path, BASES["gpt2"], METHODS)


def test_a_learning_rate_is_common_to_all_adapters_or_there_is_none():
    half, twice = (Adapter(method="lora", target="q", rank=1, rate_factor=factor) for factor in (0.5, 2.0))
    plans = [
        Plan(adapters=adapters, learning_rate=0.1, trainable_params=0)
        for adapters in ((), (half,), (half, twice))
    ]
    assert [common_learning_rate(plan) for plan in plans] == [0.1, 0.05, None]
