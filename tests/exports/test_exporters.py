"""The contract of an exporter over every method; what `native` writes is attached by plain `peft`."""

from __future__ import annotations

import json

import peft
import pytest
import torch
import transformers
from toys.exports import logits_of, trained

from autopeft.adapters import compile_plan
from autopeft.errors import AutopeftError
from autopeft.model import BaseModel
from autopeft.plugins import ExportSource, discover

EXPORTERS = discover("autopeft.exports")
METHODS = discover("autopeft.methods")
ONE_CONFIG = [(name, {}) for name in METHODS] + [("lora", {"dora": True})]


@pytest.fixture
def mix(base, make_plan):
    """A plan that takes LoRA at one target module, IA3 at the next and norm tuning at every norm."""
    layers = [target for target in base.targets if METHODS["lora"].refusal(target) is None]
    chosen = [
        *make_plan(base, "lora", rank=3).adapters[: len(layers) // 2],
        *make_plan(base, "ia3").adapters[len(layers) // 2 :],
        *make_plan(base, "ln_tuning").adapters,
    ]
    return make_plan(base, chosen)


def export(plan, out, *, head=()):
    configs = compile_plan(plan, METHODS).configs
    source = ExportSource(
        configs=tuple(configs), base_model="toy/model", task_type="SEQ_CLS", head=tuple(head)
    )
    EXPORTERS["native"].export(source, out)
    return configs


def trainable(model):
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def attach_mix(module, folder):
    """What the research page says of mixes: the first config through peft, the others injected."""
    first, *others = json.loads((folder / "order.json").read_text(encoding="utf-8"))
    read = {name: peft.PeftConfig.from_pretrained(folder / name) for name in (first, *others)}
    model = peft.get_peft_model(module, read[first], adapter_name=first)
    for name in others:
        peft.inject_adapter_in_model(read[name], model.base_model.model, name)
    return model


# By day each exporter is given LoRA, which all of them take, and a few that only some take.
BY_DAY = {("lora", "llama-lm"), ("ia3", "bert"), ("vera", "llama-lm"), ("bitfit", "bert")}
CASES = [
    pytest.param(name, method, architecture, marks=() if is_daily else pytest.mark.nightly)
    for name in EXPORTERS
    for method in METHODS
    for architecture in ("bert", "gpt2", "llama-lm")
    for is_daily in [(method, architecture) in BY_DAY]
]


@pytest.mark.parametrize(("name", "method", "architecture"), CASES)
def test_plan_of_any_method_is_written_or_refused_in_a_sentence(
    method, architecture, name, make_base, make_plan, tmp_path
):
    base = make_base(architecture)
    plan = make_plan(base, method)
    if not plan.adapters:
        plan = make_plan(base)  # the head alone, where there is one
    toy = trained(base, plan, tmp_path / "weights")
    (tmp_path / "target").mkdir()
    out = tmp_path / "target" / "a" / "b"
    try:
        notes = EXPORTERS[name].export(toy.source, out)
    except AutopeftError as error:
        assert list((tmp_path / "target").iterdir()) == []
        assert "\n" not in str(error)
    else:
        assert any(out.iterdir())
        assert sorted(path.name for path in out.parent.iterdir()) == ["b"]
        assert all(isinstance(note, str) for note in notes)
        assert EXPORTERS[name].problems(toy.source) == ()


def test_native_export_of_a_trained_mix_has_its_weights(base, mix, tmp_path):
    toy = trained(base, mix, tmp_path / "weights")
    EXPORTERS["native"].export(toy.source, tmp_path / "out")
    module = toy.raw
    for name in json.loads((tmp_path / "out" / "order.json").read_text(encoding="utf-8")):
        module = peft.PeftModel.from_pretrained(module, tmp_path / "out" / name).merge_and_unload()
    torch.testing.assert_close(logits_of(module), toy.logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("name", "choices"), ONE_CONFIG, ids=str)
def test_plain_peft_attaches_what_the_plan_counts(name, choices, base, make_plan, tmp_path):
    plan = make_plan(base, name, **choices)
    configs = export(plan, tmp_path / "out")
    if len(configs) > 1:  # options that no pattern can tell apart
        model = attach_mix(base.module, tmp_path / "out")
    else:
        config = peft.PeftConfig.from_pretrained(tmp_path / "out")
        assert (config.base_model_name_or_path, config.task_type) == ("toy/model", "SEQ_CLS")
        model = peft.get_peft_model(base.module, config)
    assert trainable(model) == plan.trainable_params + base.head_params


def test_head_alone_is_exported_as_a_config_that_adapts_nothing(base, make_plan, tmp_path):
    export(make_plan(base), tmp_path / "out")
    model = peft.get_peft_model(base.module, peft.PeftConfig.from_pretrained(tmp_path / "out"))
    assert trainable(model) == base.head_params
    assert model.base_model.targeted_module_names == []


SMALL = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
HEADS = {  # what peft would not find by itself
    "deberta": transformers.DebertaV2Config(**SMALL, num_hidden_layers=1),
    "t5": transformers.T5Config(vocab_size=50, d_model=16, d_ff=32, d_kv=8, num_heads=2, num_layers=1),
}


@pytest.mark.parametrize("name", HEADS)
def test_head_of_any_name_is_trained_by_plain_peft_too(name, make_plan, tmp_path):
    module = transformers.AutoModelForSequenceClassification.from_config(HEADS[name])
    base = BaseModel(module, None, name=name, untrained=frozenset())
    plan = make_plan(base, "lora")
    export(plan, tmp_path / "out", head=base.head_names)
    model = peft.get_peft_model(module, peft.PeftConfig.from_pretrained(tmp_path / "out"))
    assert trainable(model) == plan.trainable_params + base.head_params


def test_plain_peft_attaches_one_layer_of_a_model_with_experts_too(make_plan, tmp_path):
    """Where experts are parameters `peft` widens a pattern to all layers; names it takes as they are."""
    size = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "num_local_experts": 2}
    module = transformers.MixtralForCausalLM(transformers.MixtralConfig(**size, **heads))
    base = BaseModel(module, None, name="toy mixtral", untrained=frozenset())
    everywhere = make_plan(base, "lora").adapters
    plan = make_plan(base, [a for a in everywhere if a.target.endswith("layers.1.self_attn.v_proj")])
    configs = compile_plan(plan, METHODS).configs
    source = ExportSource(configs=configs, base_model="toy", task_type="CAUSAL_LM", base=module)
    EXPORTERS["native"].export(source, tmp_path / "out")
    model = peft.get_peft_model(module, peft.PeftConfig.from_pretrained(tmp_path / "out"))
    assert trainable(model) == plan.trainable_params > 0
