"""`autopeft estimate` on a config alone: what it prints, what fits, and its exit codes."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
import transformers
from typer.testing import CliRunner

from autopeft import commands
from autopeft.cli.app import app

N_LAYERS = 3
ESTIMATED = cache(commands.estimate_step)


@pytest.fixture(autouse=True)
def computed_once(monkeypatch):
    """The same wish, asked for as JSON and as text, is computed once."""
    monkeypatch.setattr(commands, "estimate_step", ESTIMATED)


def run(*arguments):
    return CliRunner().invoke(app, ["estimate", *map(str, arguments)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path: Path = tmp_path_factory.mktemp("llama")
    config = transformers.LlamaConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=4,
        vocab_size=20_000,
        max_position_embeddings=2048,
        architectures=["LlamaForCausalLM"],
    )
    config.save_pretrained(path)
    return path


def estimated(*arguments, code=0):
    result = run(*arguments, "--json")
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def test_json_holds_the_peak_and_five_parts_that_add_up(folder):
    content = estimated("lora_r8", "--model", folder, "--batch-size", 2, "--max-length", 128)
    parts, peak = dict(content["parts"]), content["peak_bytes"]
    reserve = parts.pop("reserve")
    assert set(parts) == {"weights", "trained", "activations", "logits_and_loss"}
    for end in ("low", "expected", "high"):
        assert peak[end] == sum(parts.values()) + reserve[end]
    assert content["trainable_params"] == N_LAYERS * 8 * (4 * 128 + 3 * 192)
    assert (content["batch_size"], content["max_length"]) == (2, 128)
    assert content["fits"] is None


def test_wish_that_does_not_fit_gets_settings_that_do_and_exit_code_3(folder):
    wish = ("lora_r8", "--model", folder, "--batch-size", 64, "--max-length", 2048, "--memory", "1GiB")
    content = estimated(*wish, code=3)
    assert not content["fits"]
    nearest = content["nearest"]
    settings = {
        "--batch-size": nearest["batch_size"],
        "--max-length": nearest["max_length"],
        "--quantize": nearest["quantize"],
        "--checkpointing": "on" if nearest["checkpointing"] else "off",
    }
    flags = [word for pair in settings.items() for word in pair]
    assert estimated("lora_r8", "--model", folder, "--memory", "1GiB", *flags)["fits"]
    assert run(*wish).exit_code == 3


def test_impossible_wish_exits_with_3(folder):
    wish = ("lora_r8", "--model", folder, "--batch-size", 2, "--max-length", 32, "--memory", "1MiB")
    assert estimated(*wish, code=3)["nearest"] is None


def test_full_logits_take_more_than_pieces_and_full_fine_tuning_more_than_lora(folder):
    def expected(*arguments):
        return int(estimated(*arguments, "--model", folder)["peak_bytes"]["expected"])

    lora = expected("lora_r8")
    assert expected("lora_r8", "--like", "trainer") > lora
    assert expected("full") > lora
    assert expected("lora_r8", "--checkpointing", "on") < lora


def test_card_brings_its_memory_and_time_and_a_price_of_an_hour_that_of_a_run(folder):
    wish = ("lora_r8", "--model", folder, "--batch-size", 2, "--max-length", 128, "--device", "l4")
    content = estimated(*wish, "--max-steps", 250, "--gpu-price", 0.5)
    assert content["memory_bytes"] == int(22.1 * 2**30)
    assert content["fits"]
    step, whole = content["step_seconds"], content["full_run_seconds"]
    assert 0 < step["low"] < step["expected"] < step["high"]
    assert whole["expected"] == pytest.approx(250 * step["expected"])
    assert content["price"] == pytest.approx(0.5 * whole["expected"] / 3600)
    faster = estimated(*wish[:-1], "h200", "--max-steps", 250)
    assert faster["step_seconds"]["expected"] <= step["expected"]


def test_a_card_without_bfloat16_computes_in_float16(folder):
    def weights(*settings):
        small = ("--batch-size", 1, "--max-length", 16)
        return estimated("lora_r8", "--model", folder, *small, *settings)["parts"]["weights"]

    assert weights("--device", "t4") == weights("--device", "l4")
    wide = weights("--device", "t4", "--dtype", "float32")
    assert wide == pytest.approx(2 * weights("--device", "t4"), rel=1e-3)


def test_there_is_no_time_for_a_gpu_that_is_not_here(folder, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert estimated("lora_r8", "--model", folder)["step_seconds"] is None


def test_a_cpu_takes_what_python_and_its_libraries_take_too(folder):
    wish = ("lora_r8", "--model", folder, "--batch-size", 1, "--max-length", 64, "--dtype", "bfloat16")
    gpu, cpu = (estimated(*wish, "--device", device) for device in ("l4", "cpu"))
    beyond = cpu["peak_bytes"]["expected"] - gpu["peak_bytes"]["expected"]
    assert 5e8 < beyond < 1e9
    assert cpu["peak_bytes"]["low"] - gpu["peak_bytes"]["low"] == beyond


def test_rows_are_read_for_the_named_task(model_dir, tmp_path):
    """An encoder says nothing of its task; rows of ten tokens are twelve with the marks of their ends."""
    texts = [[("good", "film")[i >> k & 1] for k in range(10)] for i in range(200)]
    rows = [{"tokens": tokens, "tags": ["O"] * 9 + ["B-X"]} for tokens in texts]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    wish = ("lora_r2", "--model", model_dir, "--data", tmp_path / "train.jsonl", "--device", "l4")
    content = estimated(*wish, "--task", "token-classification", "--epochs", 1)
    assert (content["max_length"], content["typical_length"]) == (12, 12)
    assert run(*wish).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("lora_r8", "--device", "h1000"), "h100"),
        (("lora_r8", "--max-steps", 0), "--max-steps"),
        (("lora_r8", "--epochs", 2), "--data"),
        (("lora_r8", "--task", "tagging"), "token-classification"),
        (("lroa_r8",), "lora"),
        (("lora_r8", "--dtype", "fp8"), "bfloat16"),
        (("lora_r8", "--max-length", 4096), "2,048"),
        (("full", "--quantize", "4bit"), "--quantize"),
        (("lora_r0",), "lora"),
    ],
)
def test_bad_argument_is_a_usage_error(folder, arguments, word):
    result = run(*arguments, "--model", folder)
    assert result.exit_code == 2, result.output
    assert word in result.stderr
