"""`count` of plans, and of configs on other models than a Llama, against what `peft` attaches and saves."""

from __future__ import annotations

import json
import re
from itertools import product

import peft
import pytest
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from toys import topologies
from toys.architectures import build
from toys.bases import adapters_of, toy_base
from toys.counting import LORA, n_trained, tensor_bytes, tiny_config, write_config

from autopeft import model
from autopeft.adapters import compile_plan
from autopeft.commands import count
from autopeft.errors import TargetError
from autopeft.plugins import discover
from autopeft.store import write_plan
from autopeft.types import DataSpec, ModelSpec, Plan, PlanDocument, TaskSpec

ON_BERT = [
    name
    for name, method in discover("autopeft.methods").items()
    if any(method.refusal(target) is None for target in toy_base("bert").targets)
]


LANGUAGE_MODELS = {
    **dict.fromkeys(("gpt2", "phi3", "gpt_neox", "mixtral", "qwen2_moe", "qwen3_moe"), "CAUSAL_LM"),
    **dict.fromkeys(("gpt_oss", "deepseek_v3"), "CAUSAL_LM"),
    **dict.fromkeys(("t5", "bart"), "SEQ_2_SEQ_LM"),
}


SAMPLE = [*(("LORA", name) for name in LANGUAGE_MODELS), ("IA3", "gpt2"), ("HRA", "mixtral")]
OTHERS = [case for case in product(("IA3", "HRA"), LANGUAGE_MODELS) if case not in SAMPLE]


@pytest.mark.parametrize(
    ("kind", "architecture"),
    [*SAMPLE, *(pytest.param(*case, marks=pytest.mark.nightly) for case in OTHERS)],
)
@pytest.mark.filterwarnings("ignore")
def test_all_linear_is_counted_as_peft_attaches_it_or_refused_as_peft_does(kind, architecture, tmp_path):
    """Conv1D, fused layers, experts in one parameter, routers, encoders with decoders."""
    module = build(architecture, LANGUAGE_MODELS[architecture]).module
    module.config.architectures = [type(module).__name__]
    module.config.save_pretrained(tmp_path / "model")
    form = {"target_modules": "all-linear", "task_type": LANGUAGE_MODELS[architecture]}
    form |= {"feedforward_modules": []} if kind == "IA3" else {"r": 1}
    folder = write_config(tmp_path / "adapter", {"peft_type": kind, **form})
    try:
        attached = peft.get_peft_model(module, PEFT_TYPE_TO_CONFIG_MAPPING[kind](**form))
    except (ValueError, TypeError) as error:
        with pytest.raises(TargetError, match=re.escape(str(error).splitlines()[0].split(". ")[0])):
            count(folder, model_id=str(tmp_path / "model"))
    else:
        counted = count(folder, model_id=str(tmp_path / "model"))
        assert counted.trainable_params == n_trained(attached) > 0
        assert counted.base_params == sum(
            p.numel() for p in attached.get_base_model().parameters()
        ) - n_trained(attached)


@pytest.mark.parametrize("task", ["CAUSAL_LM", "SEQ_2_SEQ_LM", None])
def test_encoder_with_decoder_is_counted_whole_whatever_the_task_is_called(task, tmp_path):
    """`AutoModelForCausalLM` makes Whisper's decoder alone of it."""
    config = topologies.build("whisper").config
    config.architectures = ["WhisperForConditionalGeneration"]
    config.save_pretrained(tmp_path / "model")
    content = {"peft_type": "LORA", "r": 1, "target_modules": ["q_proj"], "task_type": task}
    counted = count(write_config(tmp_path / "adapter", content), model_id=str(tmp_path / "model"))
    assert counted.targets == {"q": 2 + 2 + 2}  # encoder, decoder, and the decoder's look at the encoder
    assert counted.trainable_params == 6 * (16 + 16)


@pytest.mark.parametrize("rank_key", ["gate_up_proj", r"layers\.0\.mlp\.experts\.gate_up_proj"])
@pytest.mark.filterwarnings("ignore")
def test_experts_named_one_by_one_are_counted_and_missing_ones_noted(rank_key, tmp_path):
    module = build("mixtral", "CAUSAL_LM").module
    module.config.architectures = ["MixtralForCausalLM"]
    module.config.save_pretrained(tmp_path / "model")
    names = ["experts.gate_up_proj", "experts.down_prj"]
    form = {"r": 3, "target_modules": ["q_proj"], "target_parameters": names, "rank_pattern": {rank_key: 2}}
    attached = peft.get_peft_model(module, peft.LoraConfig(**form))
    folder = write_config(tmp_path / "adapter", {"peft_type": "LORA", **form})
    counted = count(folder, model_id=str(tmp_path / "model"))
    assert counted.trainable_params == n_trained(attached)
    assert ["experts.down_prj" in note for note in counted.notes] == [True]


QUANTIZED = [
    {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    {"quant_method": "bitsandbytes", "load_in_8bit": True},
    {"quant_method": "gptq", "bits": 4, "group_size": 128},
    {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"},
    {"quant_method": "fp8", "weight_block_size": [128, 128]},
]


@pytest.mark.parametrize("quantized", QUANTIZED, ids=lambda config: f"{config['quant_method']}-{len(config)}")
def test_quantized_base_model_is_counted_by_its_logical_weights(quantized, tiny_llama, tmp_path):
    """From the config alone; how packed modules in memory are counted: see the tests of target modules."""
    config = {**tiny_config().to_dict(), "quantization_config": quantized}
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    folder = write_config(tmp_path / "adapter", LORA)
    counted, plain = (count(folder, model_id=str(path)) for path in (tmp_path / "model", tiny_llama))
    assert (counted.trainable_params, counted.base_params) == (plain.trainable_params, plain.base_params)
    assert counted.by_role == plain.by_role


def planned(base, methods, chosen):
    """A plan of the methods, each at those of the target modules of its roles that it takes."""
    adapters, cost = [], 0
    targets = {target.name: target for target in base.targets}
    for name, roles in chosen.items():
        chosen_targets = [target for target in base.targets if roles is None or target.role in roles]
        adapters += adapters_of(methods[name], chosen_targets, rank=2)
    for adapter in adapters:
        cost += methods[adapter.method].cost(targets[adapter.target], adapter.rank, dict(adapter.options))
    return Plan(adapters=tuple(adapters), learning_rate=1e-3, trainable_params=cost)


MIXES = [
    {"lora": ["q", "v"], "ia3": ["k"], "ln_tuning": ["norm"]},
    {"vera": ["q", "v"], "lora": ["up"]},
    {"loha": ["q"], "bitfit": ["v"]},
    {},
]


@pytest.mark.parametrize("chosen", [*({name: None} for name in ON_BERT), *MIXES], ids=str)
@pytest.mark.filterwarnings("ignore")
def test_plan_is_counted_as_it_is_attached_exported_and_saved(chosen, methods, task, tmp_path):
    base = toy_base("bert", hidden=32)
    source = tmp_path / "model"
    base.module.config.save_pretrained(source)
    plan = planned(base, methods, chosen)
    sizes = {"base_params": base.base_params, "head_params": base.head_params, "schedule": "any", "seed": 0}
    spec = ModelSpec(id=str(source))
    document = PlanDocument(plan=plan, model=spec, data=DataSpec(), task=TaskSpec(), **sizes)
    write_plan(tmp_path / "plan.yaml", document)
    stack = compile_plan(plan, methods)
    with base.attached(stack.configs, plan=plan, task_type=task.peft_task_type, seed=0) as attached:
        model.save_weights(attached, stack.names, tmp_path / "saved")
        trained = n_trained(attached)
    of_plan, of_saved = count(tmp_path / "plan.yaml"), count(tmp_path / "saved", model_id=str(source))
    for counted in (of_plan, of_saved):
        assert counted.trainable_params + counted.head_params == trained
        assert (counted.trainable_params, counted.head_params) == (plan.trainable_params, base.head_params)
        assert counted.adapter_bytes == tensor_bytes(tmp_path / "saved")
    assert of_plan.by_role == of_saved.by_role


@pytest.mark.parametrize("n_labels", [1, 2, 3, 71])
def test_head_of_a_plan_is_counted_for_its_own_labels(n_labels, tmp_path):
    """A config without labels describes a head of two; 32 weights and a bias for each label."""
    base = toy_base("bert", hidden=32)
    base.module.config.save_pretrained(tmp_path / "model")
    sizes = {"base_params": base.base_params, "head_params": 33 * n_labels, "schedule": "any", "seed": 0}
    plan = Plan(adapters=(), learning_rate=1e-3, trainable_params=0)
    task = TaskSpec(name="token-classification")
    document = PlanDocument(
        plan=plan, model=ModelSpec(id=str(tmp_path / "model")), data=DataSpec(), task=task, **sizes
    )
    write_plan(tmp_path / "plan.yaml", document)
    counted = count(tmp_path / "plan.yaml")
    assert (counted.trainable_params, counted.head_params) == (0, 33 * n_labels)


def test_task_head_is_counted_apart_and_what_belongs_to_the_base_model_is_not(tiny_llama, tmp_path):
    adapters = 2 * 4 * (32 + 32 + 32 + 16)
    counted = count(write_config(tmp_path / "a", {**LORA, "task_type": "SEQ_CLS"}), model_id=str(tiny_llama))
    assert (counted.trainable_params, counted.head_params) == (adapters, 2 * 32)
    tied = {**LORA, "task_type": "CAUSAL_LM", "modules_to_save": ["lm_head"]}
    counted = count(write_config(tmp_path / "b", tied), model_id=str(tiny_llama))
    assert (counted.trainable_params, counted.head_params) == (adapters + 50 * 32, 0)
    assert counted.by_role["lm_head"] == 50 * 32
