"""`autopeft export` on folders as they lie on the disk: what it writes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file
from toys.commands import refused
from toys.counting import tiny_config
from toys.exports import answer, export, logits_of, served, shake, trained, vllm

from autopeft.exports import write_adapter
from autopeft.store import write_plan
from autopeft.types import ModelSpec, PlanDocument, RunSpec


def test_adapter_folder_becomes_a_uniform_lora(trained_adapter, tmp_path):
    toy = trained_adapter()
    report = answer(toy.folder, "--to", "uniform-lora", "--out", tmp_path / "out")
    assert (report["format"], report["out"]) == ("uniform-lora", str(tmp_path / "out"))
    assert report["files"] == ["adapter_config.json", "adapter_model.safetensors"]
    assert any("--max-lora-rank" in note for note in report["notes"])
    torch.testing.assert_close(served(toy.raw, tmp_path / "out", vllm), toy.logits, rtol=0, atol=1e-5)


def test_adapter_folder_becomes_a_merged_language_model(trained_adapter, tmp_path):
    toy = trained_adapter("lora", dora=True)
    report = answer(toy.folder, "--to", "merged", "--out", tmp_path / "out")
    assert {"model.safetensors", "tokenizer.json", "config.json"} <= set(report["files"])
    module = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(logits_of(module), toy.logits, rtol=0, atol=1e-5)


def test_merged_language_model_keeps_the_config_and_the_padding_of_its_checkpoint(trained_adapter, tmp_path):
    toy = trained_adapter()
    base = json.loads((toy.folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(base, pad_token=None, eos_token="[SEP]")
    tokenizer.save_pretrained(base)
    answer(toy.folder, "--to", "merged", "--out", tmp_path / "out")
    before, after = (transformers.AutoConfig.from_pretrained(path) for path in (base, tmp_path / "out"))
    before, after = before.to_diff_dict(), after.to_diff_dict()
    assert "id2label" not in after
    assert after.get("pad_token_id") == before.get("pad_token_id")
    tokenizers = [transformers.AutoTokenizer.from_pretrained(path) for path in (base, tmp_path / "out")]
    assert [tokenizer.pad_token for tokenizer in tokenizers] == [None, None]


@pytest.mark.parametrize("n_labels", [2, 5])
def test_adapter_of_plain_peft_with_a_head_of_any_size_is_merged(n_labels, model_dir, tmp_path):
    """Made with `peft` alone, on a base model without a head; the head's size is in its weights."""
    module = transformers.AutoModelForSequenceClassification.from_pretrained(model_dir, num_labels=n_labels)
    config = peft.LoraConfig(task_type="SEQ_CLS", target_modules=["query", "value"], r=3)
    model = peft.get_peft_model(module, config)
    shake(model)
    model.save_pretrained(tmp_path / "adapter")
    flags = (tmp_path / "adapter", "--model", model_dir)
    answer(*flags, "--to", "merged", "--out", tmp_path / "merged")
    merged = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits_of(merged), logits_of(model), rtol=0, atol=1e-5)
    assert merged.config.num_labels == n_labels
    answer(*flags, "--to", "uniform-lora", "--out", tmp_path / "uniform")
    assert load_file(tmp_path / "uniform" / "head.safetensors")["classifier.weight"].shape[0] == n_labels


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("whole", [["embed_tokens", "lm_head"], ["embed_tokens"], ["lm_head"]])
def test_modules_of_a_language_model_that_are_trained_whole_are_merged_and_not_served(tied, whole, tmp_path):
    config = tiny_config()
    config.tie_word_embeddings = tied
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "base")  # there is no tokenizer
    module = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "base")
    settings = {"task_type": "CAUSAL_LM", "target_modules": ["q_proj"], "modules_to_save": whole}
    model = peft.get_peft_model(module, peft.LoraConfig(**settings))
    shake(model)
    model.save_pretrained(tmp_path / "adapter")
    flags = (tmp_path / "adapter", "--out", tmp_path / "out")
    refused(export(*flags, "--to", "uniform-lora"), 2, "--to merged")
    answer(*flags, "--to", "merged")
    merged = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(logits_of(merged), logits_of(model), rtol=0, atol=1e-5)


@pytest.mark.parametrize("tied", [False, True])
def test_lora_on_embeddings_is_merged_where_nothing_else_is_tied_to_them(tied, tmp_path):
    """`peft` saves the embeddings themselves with such an adapter."""
    config = tiny_config()
    config.tie_word_embeddings = tied
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "base")
    module = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "base")
    settings = {"task_type": "CAUSAL_LM", "target_modules": ["q_proj", "embed_tokens"]}
    model = peft.get_peft_model(module, peft.LoraConfig(**settings))
    shake(model)
    model.save_pretrained(tmp_path / "adapter")
    flags = (tmp_path / "adapter", "--out", tmp_path / "out", "--to", "merged")
    if tied:
        refused(export(*flags), 2, "--to native")
        assert not (tmp_path / "out").exists()
    else:
        answer(*flags)
        merged = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "out")
        torch.testing.assert_close(logits_of(merged), logits_of(model), rtol=0, atol=1e-5)


@pytest.mark.parametrize("has_processor", [True, False])
def test_adapter_of_a_vision_transformer_is_merged_with_its_image_processor(has_processor, tmp_path):
    size = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.ViTConfig(**size, image_size=8, patch_size=4, num_labels=3)
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path / "base")
    if has_processor:
        transformers.ViTImageProcessor(size={"height": 8, "width": 8}).save_pretrained(tmp_path / "base")
    module = transformers.ViTForImageClassification.from_pretrained(tmp_path / "base")
    names = [name for name, child in module.vit.named_modules() if isinstance(child, torch.nn.Linear)]
    model = peft.get_peft_model(module, peft.LoraConfig(target_modules=names, modules_to_save=["classifier"]))
    shake(model)
    model.save_pretrained(tmp_path / "adapter")
    answer(tmp_path / "adapter", "--out", tmp_path / "out", "--to", "merged")
    assert (tmp_path / "out" / "preprocessor_config.json").is_file() == has_processor
    merged = transformers.ViTForImageClassification.from_pretrained(tmp_path / "out")
    pixels = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        seen, expected = merged.eval()(pixels).logits, model.eval()(pixels).logits
    torch.testing.assert_close(seen, expected, rtol=0, atol=1e-5)


@pytest.fixture
def run_dir(bert, make_plan, model_dir, tmp_path):
    """A run as far as an export reads it: settings, the best plan, its configs and its weights."""
    module = transformers.AutoModelForSequenceClassification.from_pretrained(model_dir)
    bert.__init__(module, bert.tokenizer, name="toy bert", untrained=frozenset())
    plan = make_plan(bert, "lora", rank=2)
    best = tmp_path / "run" / "best"
    document = PlanDocument(
        plan=replace(plan, learning_rate=2e-3),
        model=ModelSpec(id=str(model_dir)),
        data=RunSpec().data,
        task=RunSpec().task,
        base_params=bert.base_params,
        head_params=bert.head_params,
        schedule="",
        seed=0,
    )
    write_plan(best / "plan.yaml", replace(document, schedule="linear"))
    (tmp_path / "run" / "run.yaml").write_text("{}\n", encoding="utf-8")
    toy = trained(bert, plan, best / "weights")
    (best / "weights" / "training.json").write_text('{"seed": 0}\n', encoding="utf-8")
    write_adapter(replace(toy.source, weights=()), best / "adapters")
    return tmp_path / "run", toy


def test_run_gives_its_trained_adapter(run_dir, tmp_path):
    path, toy = run_dir
    answer(path, "--to", "merged", "--out", tmp_path / "out")
    merged = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(logits_of(merged), toy.logits, rtol=0, atol=1e-5)


def test_run_without_weights_gives_its_configs_and_no_weights(run_dir, tmp_path):
    path, _ = run_dir
    shutil.rmtree(path / "best" / "weights")
    report = answer(path, "--to", "native", "--out", tmp_path / "out")
    assert report["files"] == ["adapter_config.json"]
    refused(
        export(path, "--to", "uniform-lora", "--out", tmp_path / "other"),
        2,
        "autopeft train",
    )
    assert not (tmp_path / "other").exists()


def test_unfinished_run_gets_the_command_that_resumes_it(run_dir, tmp_path):
    path, _ = run_dir
    shutil.rmtree(path / "best")
    refused(export(path, "--to", "native", "--out", tmp_path / "out"), 2, "--resume")
    refused(export(tmp_path, "--to", "native", "--out", tmp_path / "out"), 2, "run.yaml")
