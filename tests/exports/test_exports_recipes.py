"""Recipes for other trainers: every key is documented, and what they build is what the plan says."""

from __future__ import annotations

import math
from dataclasses import replace

import datasets
import peft
import pytest
import transformers
import yaml
from toys.words import VOCABULARY, toy_rows
from trl import SFTTrainer

from autopeft.adapters import compile_plan
from autopeft.errors import SpecError
from autopeft.plugins import Checkpoint, ExportSource, TrainingFacts, discover

EXPORTERS = discover("autopeft.exports")
METHODS = discover("autopeft.methods")
FILES = {
    "axolotl": "axolotl.yaml",
    "llama-factory": "llama_factory.yaml",
    "trl": "train.py",
    "unsloth": "train.py",
}
# https://docs.axolotl.ai/docs/config-reference.html; for LLaMA-Factory src/llamafactory/hparams and
# TrainingArguments of transformers.
DOCUMENTED = {
    "axolotl": """
        adapter base_model bf16 fp16 gradient_accumulation_steps gradient_checkpointing learning_rate
        load_in_4bit load_in_8bit lora_alpha lora_alpha_pattern lora_dropout lora_fan_in_fan_out
        lora_modules_to_save lora_r lora_rank_pattern lora_target_modules lora_target_parameters
        lr_scheduler max_grad_norm max_steps micro_batch_size num_epochs optimizer
        peft_init_lora_weights peft_layers_pattern peft_layers_to_transform
        peft_trainable_token_indices peft_use_dora peft_use_rslora revision_of_model seed
        sequence_len train_on_inputs warmup_ratio warmup_steps weight_decay
    """.split(),
    "llama-factory": """
        additional_target bf16 fp16 cutoff_len disable_gradient_checkpointing do_train finetuning_type
        gradient_accumulation_steps learning_rate lora_alpha lora_dropout lora_rank lora_target
        lr_scheduler_type max_grad_norm max_steps model_name_or_path model_revision num_train_epochs
        per_device_train_batch_size quantization_bit seed stage use_dora use_rslora warmup_ratio
        warmup_steps
        weight_decay
    """.split(),
}


@pytest.fixture
def language_model(make_base):
    return make_base("llama-lm")


def source_of(base, plan, **settings):
    about = {
        "base_model": "toy/llama",
        "task_type": "CAUSAL_LM",
        "head": base.head_names,
        "training": TrainingFacts(learning_rate=3e-3),
    }
    return ExportSource(
        configs=compile_plan(plan, METHODS).configs, base=base.module, **{**about, **settings}
    )


def uneven(base, make_plan):
    chosen = make_plan(base, "lora").adapters[:-3]
    return make_plan(base, [replace(a, rank=1 + i % 3, scale=2.0 + i % 2) for i, a in enumerate(chosen)])


def attached(base, config):
    """Target module -> rank and scale, as `peft` reads a config."""
    layers = dict(peft.get_peft_model(base.module, config).base_model.model.named_modules())
    lora = {name: layer for name, layer in layers.items() if hasattr(layer, "lora_A")}
    return {name: (layer.r["default"], layer.scaling["default"]) for name, layer in lora.items()}


def wanted(plan):
    return {a.target: (a.rank, pytest.approx(a.scale)) for a in plan.adapters}


def read_yaml(path):
    """As axolotl and LLaMA-Factory do, with PyYAML's rules."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def axolotl_config(content):
    """A LoraConfig the way axolotl's loader makes it from its YAML."""
    assert content["adapter"] == "lora"
    return peft.LoraConfig(
        r=content["lora_r"],
        lora_alpha=content["lora_alpha"],
        lora_dropout=content["lora_dropout"],
        target_modules=content["lora_target_modules"],
        rank_pattern=content.get("lora_rank_pattern", {}),
        alpha_pattern=content.get("lora_alpha_pattern", {}),
        use_dora=content.get("peft_use_dora", False),
        use_rslora=content.get("peft_use_rslora", False),
    )


def llama_factory_config(content):
    """A LoraConfig the way LLaMA-Factory makes it: names by comma, one rank, one alpha."""
    return peft.LoraConfig(
        r=content["lora_rank"],
        lora_alpha=content["lora_alpha"],
        lora_dropout=content["lora_dropout"],
        target_modules=[name.strip() for name in content["lora_target"].split(",")],
        use_dora=content.get("use_dora", False),
        use_rslora=content.get("use_rslora", False),
    )


def test_axolotl_builds_the_uneven_plan(language_model, make_plan, tmp_path):
    plan = uneven(language_model, make_plan)
    EXPORTERS["axolotl"].export(source_of(language_model, plan), tmp_path / "out")
    content = read_yaml(tmp_path / "out" / "axolotl.yaml")
    assert set(content) <= set(DOCUMENTED["axolotl"])
    alphas = [content["lora_alpha"], *content["lora_alpha_pattern"].values()]
    assert all(isinstance(alpha, int) for alpha in alphas)
    assert (content["base_model"], content["learning_rate"]) == ("toy/llama", 3e-3)
    assert attached(language_model, axolotl_config(content)) == wanted(plan)


def test_llama_factory_builds_a_plan_of_one_rank_in_some_layers(language_model, make_plan, tmp_path):
    plan = make_plan(language_model, make_plan(language_model, "lora").adapters[:-3])
    EXPORTERS["llama-factory"].export(source_of(language_model, plan), tmp_path / "out")
    content = read_yaml(tmp_path / "out" / "llama_factory.yaml")
    assert set(content) <= set(DOCUMENTED["llama-factory"])
    assert isinstance(content["lora_alpha"], int)
    assert content["learning_rate"] == 3e-3
    assert "q_proj" in content["lora_target"].split(",")
    assert attached(language_model, llama_factory_config(content)) == wanted(plan)


def read_python(path):
    """What the lines for TRL define, on a machine without a GPU."""
    names = {}
    exec(path.read_text(encoding="utf-8").replace("SFTConfig(\n", "SFTConfig(use_cpu=True,\n"), names)
    return names


READ = {
    "axolotl": lambda path: axolotl_config(read_yaml(path)),
    "llama-factory": lambda path: llama_factory_config(read_yaml(path)),
    "trl": lambda path: read_python(path)["config"],
}


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("field", ["use_dora", "use_rslora"])
def test_options_of_lora_reach_each_trainer(name, field, language_model, tmp_path):
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], **{field: True})
    source = ExportSource(
        configs=(config,), base_model="x", task_type="CAUSAL_LM", base=language_model.module
    )
    EXPORTERS[name].export(source, tmp_path / "out")
    read = READ[name](tmp_path / "out" / FILES[name])
    assert getattr(read, field) is True
    assert attached(language_model, read) == attached(language_model, config)


@pytest.mark.parametrize("method", METHODS)
def test_trl_file_builds_the_config_of_every_method(method, language_model, make_plan, tmp_path):
    plan = make_plan(language_model, method)
    source = source_of(language_model, plan)
    if EXPORTERS["trl"].problems(source):
        with pytest.raises(SpecError, match="trl"):
            EXPORTERS["trl"].export(source, tmp_path / "out")
        return
    EXPORTERS["trl"].export(source, tmp_path / "out")
    model = peft.get_peft_model(language_model.module, READ["trl"](tmp_path / "out" / "train.py"))
    assert model.get_nb_trainable_parameters()[0] == plan.trainable_params > 0


def test_trl_trains_the_uneven_plan(language_model, make_plan, tokenizer, tmp_path):
    plan = uneven(language_model, make_plan)
    language_model.module.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    facts = TrainingFacts(learning_rate=3e-3, max_steps=3, max_length=16, micro_batch_size=4, dtype="float32")
    EXPORTERS["trl"].export(source_of(language_model, plan, training=facts), tmp_path / "out")
    read = read_python(tmp_path / "out" / "train.py")
    args = replace(
        read["args"],
        output_dir=str(tmp_path / "run"),
        use_cpu=True,
        eos_token="[SEP]",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
    )
    rows = datasets.Dataset.from_dict({"text": toy_rows(16, seed=0)[0]})
    trainer = SFTTrainer(str(tmp_path / "model"), args=args, train_dataset=rows, peft_config=read["config"])
    named = dict(trainer.model.named_parameters())
    before = {name: p.detach().clone() for name, p in named.items() if p.requires_grad}
    assert sum(p.numel() for p in before.values()) == plan.trainable_params
    done = trainer.train()
    assert done.training_loss < 3 * math.log(len(VOCABULARY))
    moved = [name for name, p in before.items() if not named[name].equal(p)]
    assert len([name for name in moved if "lora_B" in name]) == len(plan.adapters)
    rates = [row["learning_rate"] for row in trainer.state.log_history if "learning_rate" in row]
    assert 0 < max(rates) <= 3e-3
    assert isinstance(trainer.model.get_base_model(), transformers.LlamaForCausalLM)


@pytest.mark.parametrize("name", FILES)
def test_another_task_and_a_mix_of_methods_are_refused(name, bert, language_model, make_plan, tmp_path):
    half = make_plan(language_model, "lora").adapters[::2]
    mix = make_plan(language_model, [*half, *make_plan(language_model, "ln_tuning").adapters])
    classifier = source_of(bert, make_plan(bert, "lora"), task_type="SEQ_CLS")
    for source in (classifier, source_of(language_model, mix)):
        with pytest.raises(SpecError) as refusal:
            EXPORTERS[name].export(source, tmp_path / "out")
        assert "--to trl" not in str(refusal.value)  # which cannot hold it either
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["axolotl", "llama-factory"])
def test_what_a_yaml_cannot_express_is_refused(name, language_model, make_plan, tmp_path):
    plan = uneven(language_model, make_plan)
    odd = [replace(a, scale=1.5 if a.rank == 3 else a.scale) for a in plan.adapters]
    with pytest.raises(SpecError, match="--to trl"):
        EXPORTERS[name].export(source_of(language_model, make_plan(language_model, odd)), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


FACTS = {"micro_batch_size": 2, "accumulation_steps": 4, "dtype": "bfloat16", "checkpointing": False}
FACTS |= {"warmup_steps": 50, "epochs": 2.5, "max_length": 48, "seed": 7, "quantize": "4bit"}
EXPECTED = {
    "axolotl": {
        **{"micro_batch_size": 2, "gradient_accumulation_steps": 4, "warmup_steps": 50, "num_epochs": 2.5},
        **{"bf16": True, "gradient_checkpointing": False, "sequence_len": 48, "seed": 7},
        **{"adapter": "qlora", "load_in_4bit": True, "revision_of_model": "abc"},
    },
    "llama-factory": {
        **{"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "warmup_steps": 50},
        **{"num_train_epochs": 2.5, "bf16": True, "disable_gradient_checkpointing": True, "cutoff_len": 48},
        **{"seed": 7, "quantization_bit": 4, "model_revision": "abc"},
    },
}


@pytest.mark.parametrize("name", EXPECTED)
def test_yaml_has_length_precision_and_quantization(name, language_model, make_plan, tmp_path):
    about = {"training": TrainingFacts(**FACTS), "checkpoint": Checkpoint(revision="abc")}
    source = source_of(language_model, make_plan(language_model, "lora"), **about)
    EXPORTERS[name].export(source, tmp_path / "out")
    content = read_yaml(tmp_path / "out" / FILES[name])
    assert {key: content[key] for key in EXPECTED[name]} == EXPECTED[name]
    assert set(content) <= set(DOCUMENTED[name])


def test_trl_loads_the_commit_and_the_bits_of_the_plan(language_model, make_plan, tmp_path):
    about = {"training": TrainingFacts(**FACTS, packs=True), "checkpoint": Checkpoint(revision="abc")}
    source = source_of(language_model, make_plan(language_model, "lora"), **about)
    EXPORTERS["trl"].export(source, tmp_path / "out")
    args = read_python(tmp_path / "out" / "train.py")["args"]
    assert (args.packing, args.packing_strategy) == (True, "wrapped")
    loading = args.model_init_kwargs
    assert (loading["revision"], loading["dtype"]) == ("abc", "bfloat16")
    assert loading["quantization_config"].bnb_4bit_quant_type == "nf4"
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == (2, 4)
    assert (args.num_train_epochs, args.gradient_checkpointing) == (2.5, False)
    assert (args.max_length, args.seed) == (48, 7)


@pytest.mark.parametrize("name", ["axolotl", "llama-factory"])
def test_loader_of_a_class_with_images_is_refused(name, language_model, make_plan, tmp_path):
    about = {"checkpoint": Checkpoint(own_class="Qwen3_5ForConditionalGeneration")}
    source = source_of(language_model, make_plan(language_model, "lora"), **about)
    with pytest.raises(SpecError, match="Qwen3_5ForConditionalGeneration"):
        EXPORTERS[name].export(source, tmp_path / "out")
