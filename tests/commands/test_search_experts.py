"""A search on a tiny mixture of experts, its export, and what `check` says of it."""

from __future__ import annotations

import json

import pytest
from toys.folders import word_tokenizer
from toys.specs import run_spec
from toys.topologies import build
from toys.words import toy_rows

from autopeft import commands
from autopeft.report.progress import Lines


@pytest.mark.parametrize("name", ["qwen3_moe", pytest.param("deepseek_v3", marks=pytest.mark.nightly)])
def test_adapter_of_a_search_on_experts_is_good_and_adapts_no_expert(name, tmp_path):
    build(name, device="cpu").save_pretrained(tmp_path / "model")
    word_tokenizer().save_pretrained(tmp_path / "model")
    rows = [{"prompt": text, "completion": " ".join(text.split()[:2])} for text in toy_rows(200, seed=0)[0]]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    settings = {"task": "text-generation", "budget": "r2", "max_steps": 6, "batch_size": 8}
    settings |= {"trials": 3, "methods": ["lora"]}
    spec = run_spec(tmp_path / "model", tmp_path / "rows.jsonl", out=tmp_path / "run", **settings)
    result, run = commands.run_search(spec, progress=Lines())
    assert result.best.trainable_params <= result.setting.budget.max_trainable_params
    commands.export(run, "uniform-lora", tmp_path / "adapter")
    found = commands.check(str(tmp_path / "adapter"), run=run)
    assert (found.verdict, found.findings) == ("good", ())
    assert {found.verdict_on(server) for server in ("vllm", "llama.cpp")} == {"good"}
    adapted = {each.component for each in found.coverage if each.adapted}
    assert adapted <= {"attention", "mlp", "shared_expert"}
