"""`count` against 63 published runs of `peft`'s method comparison."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import transformers
from toys.counting import write_config
from typer.testing import CliRunner

from autopeft import model
from autopeft.adapters import Count
from autopeft.cli.app import app
from autopeft.commands import count
from autopeft.types import ModelSpec

PUBLISHED = [
    json.loads(line)
    for line in (Path(__file__).parent / "counts" / "peft_method_comparison.jsonl").read_text().splitlines()
]
# What a config alone cannot define. The test fails if one of these agrees by now.
EXCEPTIONS = {
    "full-finetuning--llama-3.2-3B-lr_0.00001": "no config: every parameter of the base model was trained",
    "lora--llama-3.2-3B-rank32-lorafa": "LoRA-FA's optimizer held A still; the config is that of plain LoRA",
}
# Types that are refused: of virtual tokens, and those that peft attaches to weights alone.
REFUSED = {"ADAMSS", "BOFT", "FROD", "P_TUNING", "PREFIX_TUNING", "PROMPT_TUNING"}
SMALLER_FILES = {
    "adalora--llama-3.2-3B-rank32": "pruned from rank 64 to 32, module by module, before it was saved",
    "osf--llama-3.2-3B-rank128": "saved in bfloat16 by an older peft, now in float32",
}


@pytest.fixture(scope="session")
def llama_3b(tmp_path_factory) -> Path:
    """The config of Llama-3.2-3B, without weights."""
    folder = tmp_path_factory.mktemp("models") / "llama-3.2-3b"
    transformers.LlamaConfig(
        num_hidden_layers=28,
        hidden_size=3072,
        intermediate_size=8192,
        num_attention_heads=24,
        num_key_value_heads=8,
        head_dim=128,
        vocab_size=128256,
        tie_word_embeddings=True,
        dtype="bfloat16",
        architectures=["LlamaForCausalLM"],
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def counts_of_published(llama_3b, tmp_path_factory) -> dict[str, Count]:
    folder = tmp_path_factory.mktemp("published")
    return {
        run["name"]: count(write_config(folder / run["name"], run["peft_config"]), model_id=str(llama_3b))
        for run in PUBLISHED
        if run["peft_config"] and run["peft_config"]["peft_type"] not in REFUSED
    }


def test_published_runs_are_counted_exactly_but_for_two(counts_of_published):
    published = {run["name"]: run["trainable_params"] for run in PUBLISHED}
    assert len(published) == 63
    agreeing = {
        name for name, counted in counts_of_published.items() if counted.trainable_params == published[name]
    }
    refused = {run["name"] for run in PUBLISHED if (run["peft_config"] or {}).get("peft_type") in REFUSED}
    assert set(published) - agreeing == {*EXCEPTIONS, *refused} and len(refused) == 11
    assert not any(counted.head_params for counted in counts_of_published.values())


def test_what_differs_from_the_published_runs_does_so_by_its_reason(counts_of_published, llama_3b):
    published = {run["name"]: run["trainable_params"] for run in PUBLISHED}
    full, lora_fa = EXCEPTIONS
    base = model.load_skeleton(ModelSpec(id=str(llama_3b)), auto_class="AutoModelForCausalLM")
    assert base.base_params == published[full]
    frozen = 28 * 2 * 32 * 3072  # A of rank 32 at q and v, both of 3072 inputs
    assert counts_of_published[lora_fa].trainable_params - frozen == published[lora_fa]


def test_published_files_are_the_counted_tensors_and_a_header(counts_of_published):
    published = {run["name"]: run["file_bytes"] for run in PUBLISHED}
    headers = {name: published[name] - counted.adapter_bytes for name, counted in counts_of_published.items()}
    odd = {name for name, n in headers.items() if not 64 < n < max(60_000, published[name] // 100)}
    assert odd == set(SMALLER_FILES)
    assert all(headers[name] < -published[name] // 2 for name in odd)


def test_the_documentation_shows_what_count_prints(llama_3b, tmp_path, monkeypatch):
    """The commands and outputs of docs/estimate.md, with a config instead of the hub's model."""
    page = (Path(__file__).parents[2] / "docs" / "estimate.md").read_text(encoding="utf-8")
    command, shown = page.split("```\n$ ")[1].split("\n```")[0].split("\n", 1)
    _, *arguments = command.split()
    monkeypatch.chdir(tmp_path)
    shutil.copytree(llama_3b, tmp_path / arguments[-1])
    (published,) = [run for run in PUBLISHED if run["name"] == "lora--llama-3.2-3B-rank32"]
    write_config(tmp_path / arguments[1], published["peft_config"])
    assert CliRunner().invoke(app, arguments).stdout.strip() == shown
