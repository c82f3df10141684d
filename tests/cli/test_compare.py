"""`count --compare`: targets side by side, against closed forms and torch's own count of operations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from peft import LoraConfig
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner, Result

from autopeft.cli.app import app
from autopeft.estimate import TrainingStep, measure

HIDDEN, INNER, N_LAYERS, WORDS = 32, 64, 5, 2000


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["count", *map(str, arguments)])


def llama_config() -> transformers.LlamaConfig:
    return transformers.LlamaConfig(
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=2,
        vocab_size=WORDS,
        architectures=["LlamaForCausalLM"],
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("llama")
    llama_config().save_pretrained(path)
    return path


def test_targets_stand_side_by_side(folder: Path, tmp_path: Path) -> None:
    LoraConfig(r=4, use_dora=True, target_modules=["q_proj"], task_type="CAUSAL_LM").save_pretrained(tmp_path)
    words = ["lora_r4", "--compare", tmp_path, "--compare", "ia3", "--compare", "full", "--model", folder]
    result = run(*words, "--json")
    assert result.exit_code == 0, result.output
    lora, dora, ia3, full = json.loads(result.stdout).values()
    assert lora["trainable_params"] == N_LAYERS * 4 * (4 * 2 * HIDDEN + 3 * (HIDDEN + INNER))
    assert dora["trainable_params"] == N_LAYERS * (4 * 2 * HIDDEN + HIDDEN)
    assert lora["file_bytes"] == 4 * lora["trainable_params"]
    assert full["file_bytes"] == 2 * full["base_params"]
    assert full["flops"] > lora["flops"]
    assert min(full["step_seconds"], lora["step_seconds"]) > 0
    assert lora["read_by"] == ["vllm", "tgi", "llama.cpp"]
    assert dora["read_by"] == ia3["read_by"] == []  # after a merge
    text = run(*words)
    assert "read by" in text.stdout
    assert "after a merge" in text.stdout
    assert max(map(len, text.stdout.splitlines()[2:])) <= 100


def test_count_shows_the_memory_of_a_step(folder: Path, tmp_path: Path) -> None:
    LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM").save_pretrained(tmp_path)
    assert "training takes about" in run(tmp_path, "--model", folder).stdout
    counted = json.loads(run(tmp_path, "--model", folder, "--json").stdout)
    peak = counted["peak_bytes"]
    assert 0 < peak["low"] <= peak["expected"] <= peak["high"]
    maps, norms = 4 * HIDDEN**2 + 3 * HIDDEN * INNER, 2 * HIDDEN
    n_base = N_LAYERS * (maps + norms) + 2 * WORDS * HIDDEN + HIDDEN
    assert counted["share_of_base"] == pytest.approx(N_LAYERS * 4 * 2 * HIDDEN / n_base)
    assert "percent" not in counted


def test_operations_of_a_step_are_those_that_torch_counts() -> None:
    config = llama_config()
    config._attn_implementation = "eager"  # torch has no count of the CPU's fused attention
    model = transformers.LlamaForCausalLM(config)
    ids = torch.zeros(2, 10, dtype=torch.long)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    with FlopCounterMode(display=False) as counted:
        model(**batch).loss.backward()
    step = TrainingStep(micro_batches=[batch], loss=lambda model, batch: model(**batch).loss)
    assert measure(model, step).flops == counted.get_total_flops()
    config._attn_implementation = "sdpa"
    fused = measure(transformers.LlamaForCausalLM(config), step).flops
    # The fused backward pass multiplies queries and keys once more, for rows of ten tokens in five layers.
    assert fused == counted.get_total_flops() + N_LAYERS * 2 * 2 * 10 * 10 * HIDDEN


def test_a_method_and_the_whole_model_are_counted_where_no_such_path_exists(folder: Path) -> None:
    lora = json.loads(run("lora_r4", "--model", folder, "--json").stdout)
    assert lora["trainable_params"] == N_LAYERS * 4 * (4 * 2 * HIDDEN + 3 * (HIDDEN + INNER))
    assert lora["ranks"]["q"] == [4, 4]
    assert lora["peak_bytes"]["low"] > 0
    full = json.loads(run("full", "--model", folder, "--json").stdout)
    assert full["trainable_params"] == full["base_params"] > lora["base_params"] / 2
    assert "(100.00 %)" in run("full", "--model", folder).stdout
    assert "lora_r16, or full" in " ".join(run("--help").stdout.split())


@pytest.mark.parametrize("word", ["lroa_r4", "absent/plan.yaml"])
def test_what_is_neither_path_nor_method_is_refused_with_both(folder: Path, word: str) -> None:
    result = run(word, "--model", folder)
    assert result.exit_code == 2
    assert [
        w
        for w in ("file, folder or method", word.partition("_r4")[0], "full", "ia3")
        if w not in result.stderr
    ] == []


def test_targets_whose_memory_cannot_be_told_are_compared_without_it(tmp_path: Path) -> None:
    sizes = {
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    config = transformers.BertConfig(vocab_size=WORDS, architectures=["BertModel"], **sizes)
    config.save_pretrained(tmp_path / "bert")
    # Features have no loss of their own.
    LoraConfig(r=4, target_modules=["query"], task_type="FEATURE_EXTRACTION").save_pretrained(
        tmp_path / "adapter"
    )
    words = [tmp_path / "adapter", "--compare", "lora_r4", "--compare", "full", "--model", tmp_path / "bert"]
    result = run(*words, "--json")
    assert result.exit_code == 0, result.output
    queries, lora, full = json.loads(result.stdout).values()
    assert queries["trainable_params"] == 2 * 4 * 2 * HIDDEN
    assert queries["peak_bytes"] is queries["step_seconds"] is queries["flops"] is None
    assert min(each["peak_bytes"]["low"] for each in (lora, full)) > 0
    text = run(*words).stdout
    (row,) = [line for line in text.splitlines() if line.startswith("…")]
    assert row.split().count("–") == 2
    assert "–: The memory of" in text
