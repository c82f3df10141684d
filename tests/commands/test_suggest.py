"""`suggest` holds the base in 4 bits if it fits no otherwise, and takes the rate of the searches' list."""

from __future__ import annotations

import json
from pathlib import Path

import peft
import pytest
import torch
import yaml
from toys.architectures import CONFIGS
from toys.folders import word_tokenizer
from toys.specs import run_spec
from toys.topologies import build
from toys.words import toy_rows
from transformers import (
    Gemma2Config,
    LlamaConfig,
    MixtralForCausalLM,
    RobertaConfig,
    RobertaForSequenceClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)
from typer.testing import CliRunner

import autopeft
from autopeft import space
from autopeft.cli.app import app
from autopeft.cli.sizes import suggestion_json, suggestion_text
from autopeft.commands.estimate import estimate_step
from autopeft.errors import SpecError
from autopeft.estimate import TrainingStep, measure
from autopeft.plugins import discover
from autopeft.store import resolve_settings


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The config of a Llama of 134 million weights: 268 MB in 16 bits, 75 in four."""
    folder = tmp_path_factory.mktemp("llama")
    shape = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 8, "vocab_size": 1000}
    heads = {"num_attention_heads": 16, "num_key_value_heads": 4, "tie_word_embeddings": True}
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **shape, **heads}
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


@pytest.mark.parametrize(("quantize", "held"), [(None, "4bit"), ("none", "none")])
def test_a_base_that_does_not_fit_is_held_in_4_bits_unless_the_user_says_how(model, quantize, held):
    suggestion = autopeft.suggest(model, budget="r8", device="l4", memory="900MB", quantize=quantize)
    answer = suggestion_json(suggestion)
    assert (answer["quantize"], answer["fits"]) == (held, held == "4bit")
    assert ("BitsAndBytesConfig(load_in_4bit=True" in suggestion.snippet("trl")) == (held == "4bit")
    assert ("adapter: qlora" in suggestion.snippet("axolotl")) == (held == "4bit")


def test_a_suggestion_that_does_not_fit_exits_with_3_and_names_cards_that_have_the_memory(model):
    request = ["suggest", model, "--budget", "r8", "--quantize", "none", "--memory", "200MB"]
    result = CliRunner().invoke(app, [*request, "--json"])
    answer = json.loads(result.stdout)
    assert (result.exit_code, answer["fits"], answer["snippet"]) == (3, False, None)
    shown = CliRunner().invoke(app, request)
    assert shown.exit_code == 3
    assert "rtx4090" in shown.stdout and "LoraConfig" not in shown.stdout


@pytest.mark.parametrize(
    ("trainer", "like"), [("peft", "trainer"), ("axolotl", "trainer"), ("trl", "autopeft")]
)
def test_memory_is_that_of_the_loop_in_which_the_lines_run(model, trainer, like):
    suggestion = autopeft.suggest(model, budget="r8", device="t4", trainer=trainer)
    step = suggestion.estimate.answer.step
    settings = {
        "model.id": model,
        "task.batch_size": step.n_rows,
        "task.max_length": step.n_tokens,
        "execution.checkpointing": "on" if step.checkpointing else "off",
        "execution.device": "t4",
    }
    spec = resolve_settings(flags=settings)
    estimated = estimate_step("lora_r8", spec, like=like, accumulates=True)  # without a search for limits
    assert step.memory == estimated.answer.step.memory


def test_weights_in_mxfp4_are_dequantized_by_trl_and_axolotl(tmp_path):
    config = CONFIGS["gpt_oss"]()
    config.quantization_config = {"quant_method": "mxfp4"}
    config.architectures = ["GptOssForCausalLM"]
    config.save_pretrained(tmp_path)
    suggestion = autopeft.suggest(tmp_path, budget="r2", trainer="trl")
    written: dict = {}
    exec(suggestion.snippet("trl").replace("bf16=True", "use_cpu=True"), written)
    assert written["args"].model_init_kwargs["quantization_config"].dequantize
    in_axolotl = yaml.safe_load(suggestion.snippet("axolotl"))
    assert in_axolotl["model_quantization_config"] == "Mxfp4Config"
    assert in_axolotl["model_quantization_config_kwargs"] == {"dequantize": True}


def test_its_rate_is_that_of_the_first_plan_of_a_search(model):
    methods = discover("autopeft.methods")
    first = space.load("default", known_methods=methods).listed["language"][0]
    low, high = methods["lora"].at_width(1024).learning_rate_range
    suggestion = autopeft.suggest(model, budget="r16", device="l4")
    rate = low * (high / low) ** first.rate * (4 / 16**0.5) / (suggestion.config.lora_alpha / 16)
    assert suggestion.learning_rate == pytest.approx(rate, rel=1e-6)
    assert suggestion_json(suggestion)["full_run_steps"] is None
    assert "warmup_steps=0.06" in suggestion.snippet("trl")  # a share, since the steps are not known


def test_lines_for_trainers_of_language_models_are_for_them_alone():
    suggestion = autopeft.suggest(budget="r4", task="text-classification")
    assert "SEQ_CLS" in suggestion.snippet("peft")
    with pytest.raises(autopeft.AutopeftError, match="SEQ_CLS"):
        suggestion.snippet("trl")


def test_a_model_that_overflows_in_float16_computes_in_float32_on_a_t4(tmp_path):
    Gemma2Config(hidden_size=64, num_hidden_layers=2, architectures=["Gemma2ForCausalLM"]).save_pretrained(
        tmp_path
    )
    suggestion = autopeft.suggest(tmp_path, budget="r2", device="t4")
    assert suggestion.estimate.dtype == "float32"
    assert "fp16" not in suggestion.snippet("trl")
    assert "'dtype': 'float32'" in suggestion.snippet("trl")


def test_lines_allow_rows_as_long_as_the_run_does_and_not_as_the_longest_train_row(model_dir, tickets):
    columns = {"text": "message", "label": "team"}
    suggestion = autopeft.suggest(model_dir, tickets, task="text-classification", **columns)
    assert suggestion.max_length == 32 > suggestion.estimate.answer.step.n_tokens


@pytest.fixture
def tickets(tmp_path):
    """Rows whose columns have no usual names."""
    rows = [{"message": f"good film {i}", "team": "ab"[i % 2]} for i in range(200)]
    path = tmp_path / "tickets.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


COLUMNS = ("--text-column", "message", "--label-column", "team")


def test_steps_and_warm_up_follow_from_the_rows_whatever_the_device(model_dir, tickets):
    request = ["suggest", str(model_dir), "--task", "text-classification", "--data", tickets, *COLUMNS]
    told = [CliRunner().invoke(app, [*request, "--device", d, "--json"]) for d in ("cuda", "l4")]
    without, with_card = (json.loads(result.stdout) for result in told)
    assert without["full_run_seconds"] is None and with_card["full_run_seconds"]["expected"] > 0
    assert without["full_run_steps"] == with_card["full_run_steps"]
    assert without["warmup_steps"] == with_card["warmup_steps"]
    by_python = autopeft.suggest(
        model_dir, tickets, task="text-classification", text="message", label_column="team"
    )
    assert by_python.estimate.n_steps == without["full_run_steps"]


def test_ranks_that_differ_are_for_vllm_alone(tmp_path):
    """Keys and values of 16 outputs use rank 16 at most; the other servers read or take one scale."""
    heads = {"num_attention_heads": 4, "num_key_value_heads": 1}
    LlamaConfig(
        hidden_size=64, num_hidden_layers=2, architectures=["LlamaForCausalLM"], **heads
    ).save_pretrained(tmp_path)
    narrow, wide = (autopeft.suggest(tmp_path, budget=f"r{rank}") for rank in (16, 32))
    assert (bool(narrow.config.rank_pattern), bool(narrow.servers)) == (False, True)
    assert bool(wide.config.rank_pattern) and set(wide.servers) == {"vllm"}


def test_a_rank_above_the_default_of_vllm_names_its_flag(model):
    suggestion = autopeft.suggest(model, budget="r32")
    assert "vllm refuses rank 32 without --max-lora-rank 32" in " ".join(suggestion_text(suggestion).split())
    assert suggestion_json(suggestion)["servers"]["sglang"] == []


def test_rates_of_half_and_twice_are_a_range_for_language_models_alone(model, model_dir):
    suggestion = autopeft.suggest(model, budget="r16")
    low, high = suggestion_json(suggestion)["learning_rate_range"]
    assert (low, high) == pytest.approx((suggestion.learning_rate / 2, 2 * suggestion.learning_rate))
    assert "costs about 0.001 nats" in suggestion_text(suggestion)
    classifier = autopeft.suggest(model_dir, task="text-classification", budget="r2")
    assert suggestion_json(classifier)["learning_rate_range"] is None


def test_automatic_budget_has_a_parameter_for_each_token_of_the_answers(tmp_path):
    """400 answers of two words; LoRA has 464 parameters per rank."""
    build("llama", device="cpu").save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    texts, _ = toy_rows(500, seed=0)
    for split, rows in (("train", texts[:400]), ("validation", texts[400:])):
        lines = [json.dumps({"prompt": text, "completion": "good film"}) for text in rows]
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / f"{split}.jsonl").write_text("\n".join(lines))
    suggestion = autopeft.suggest(tmp_path, tmp_path / "data", budget="auto")
    assert (suggestion.config.r, suggestion.trainable_params) == (2, 928)
    with pytest.raises(SpecError, match="rows"):
        autopeft.suggest(tmp_path, budget="auto")


def test_automatic_budget_of_a_classifier_is_refused(model_dir, tickets):
    columns = {"text_column": "message", "label_column": "team"}
    with pytest.raises(SpecError, match="text-classification"):
        autopeft.suggest(model_dir, tickets, "auto", task="text-classification", device="cpu", **columns)


@pytest.fixture(scope="module")
def experts(tmp_path_factory):
    """The folder of a config of a tiny Mixtral, whose experts are parameters."""
    folder = tmp_path_factory.mktemp("mixtral")
    CONFIGS["mixtral"]().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("components", [(), ("attention", "routed_experts")])
def test_the_snippet_trains_the_reported_parameters_of_a_model_with_experts(experts, components):
    suggestion = autopeft.suggest(experts, budget="r8", device="t4", components=components)
    written: dict = {}
    exec(suggestion.snippet("peft"), written)
    base = MixtralForCausalLM(CONFIGS["mixtral"]())
    assert peft.get_peft_model(base, written["config"]).num_parameters(only_trainable=True) == (
        suggestion.trainable_params
    )
    assert written["config"].target_modules == set("q_proj k_proj v_proj o_proj".split())
    assert "fp16=True" in suggestion.snippet("trl")
    in_axolotl = yaml.safe_load(suggestion.snippet("axolotl"))
    parameters = in_axolotl.get("lora_target_parameters")
    assert parameters == suggestion_json(suggestion).get("target_parameters")
    assert bool(parameters) == bool(components)


def test_a_step_of_images_takes_the_bytes_of_a_real_one(tmp_path):
    config = ViTConfig(
        **{"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 5, "num_attention_heads": 2},
        **{"image_size": 32, "patch_size": 8, "architectures": ["ViTForImageClassification"]},
    )
    config.save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    suggestion = autopeft.suggest(tmp_path, budget="r4", device="l4")
    assert "32 images" in suggestion_text(suggestion)
    assert suggestion_json(suggestion)["max_length"] is None
    on_cpu = run_spec(tmp_path, batch_size=3, device="cpu", dtype="float32")
    estimated = estimate_step("lora_r4", on_cpu)
    model = peft.get_peft_model(ViTForImageClassification(config), suggestion.config)
    pixels, labels = torch.zeros(3, 3, 32, 32), torch.zeros(3, dtype=torch.long)
    step = TrainingStep(
        batch={"pixel_values": pixels, "labels": labels},
        loss=lambda module, batch: module(**batch).loss,
    )
    real, memory = measure(model, step), estimated.answer.step.memory
    assert suggestion.trainable_params == 4 * sum(
        part.in_features + part.out_features
        for name, part in ViTForImageClassification(config).named_modules()
        if isinstance(part, torch.nn.Linear) and name != "classifier"
    )
    parts = memory.weights + memory.trained + memory.activations + memory.logits
    assert parts == pytest.approx(real.peak_bytes, rel=0.02)


def test_a_quantized_checkpoint_that_does_not_fit_is_reported(model, tmp_path):
    config = json.loads((Path(model) / "config.json").read_text())
    stored = {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128}}
    (tmp_path / "config.json").write_text(json.dumps(config | stored))
    assert not autopeft.suggest(tmp_path, budget="r8", device="l4", memory="100MB").estimate.fits


@pytest.mark.parametrize(("n_labels", "move"), [(3, 2.0), (1, 0.66)])
def test_the_lines_for_peft_move_the_outputs_of_a_head_by_equal_steps(tmp_path, n_labels, move):
    """A step of AdamW moves an output by about rate × inputs × their root mean square."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = RobertaConfig(**sizes, vocab_size=99, num_labels=n_labels)
    config.architectures = ["RobertaForSequenceClassification"]
    config.save_pretrained(tmp_path)
    suggestion = autopeft.suggest(tmp_path, budget="r2")
    written: dict = {}
    exec(suggestion.snippet("peft"), written)
    model = peft.get_peft_model(RobertaForSequenceClassification(config).eval(), written["config"])
    batch = {"input_ids": torch.randint(5, 99, (8, 12))}
    optimizer = written["optimizer_for"](model, batch)
    groups = [(parameter, group["lr"]) for group in optimizer.param_groups for parameter in group["params"]]
    assert {p for p, _ in groups} == {p for p in model.parameters() if p.requires_grad}
    rates, head = dict(groups), model.base_model.model.classifier.modules_to_save["default"]
    with torch.no_grad():
        below = model.base_model.model.roberta(**batch).last_hidden_state[:, 0]
        last = torch.tanh(head.dense(below))
    for layer, inputs, expected in ((head.dense, below, 0.4), (head.out_proj, last, move)):
        assert rates[layer.weight] * 32 * inputs.square().mean().sqrt() == pytest.approx(expected, rel=1e-4)
    model.half()
    with torch.no_grad():  # squares of 400 leave the range of float16
        model.base_model.model.roberta.encoder.layer[-1].output.LayerNorm.weight.fill_(400)
    assert min(group["lr"] for group in written["optimizer_for"](model, batch).param_groups) > 0
    in_head = {*head.parameters()}
    assert {rate for p, rate in groups if p not in in_head} == {float(f"{suggestion.learning_rate:.1e}")}
