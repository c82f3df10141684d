"""The command line: what bad input gets, and that nothing is left behind."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
from toys.commands import refused, run
from toys.specs import run_spec

from autopeft.plugins import discover
from autopeft.store import write_plan
from autopeft.types import Adapter, Plan, PlanDocument


def search(model_dir, data, out, *arguments):
    return run("search", "--model", model_dir, "--data", data, "--max-steps", 4, "--out", out, *arguments)


def test_help_names_every_command_and_imports_no_torch():
    code = "import sys; from autopeft.cli.app import app; app(['--help'], standalone_mode=False)"
    code += "; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("False")
    commands = "suggest search tune train try estimate count analyze export push report info".split()
    assert [name for name in commands if name not in done.stdout] == []


def test_budget_below_the_cheapest_plan_names_it(model_dir, data_dir, tmp_path):
    refused(search(model_dir, data_dir, tmp_path / "run", "--budget", "3"), 4, "--budget")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flag", "value", "hint"),
    [
        ("--methods", "lroa", "lora"),
        ("--effort", "thorogh", "thorough"),
        ("--trials", "0", "1"),
        ("--max-time", "10", "unit"),
        ("--workers", "2", "serial"),
    ],
)
def test_unknown_word_is_answered_with_the_known_ones(flag, value, hint, model_dir, data_dir, tmp_path):
    refused(search(model_dir, data_dir, tmp_path / "run", flag, value), 2, value, hint)
    assert list(tmp_path.iterdir()) == []


def test_search_answers_one_json_object_and_nothing_else(model_dir, data_dir, tmp_path):
    flags = ("--budget", "5%", "--effort", "quick")
    result = search(model_dir, data_dir, tmp_path / "run", *flags, "--json")
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert 0 < answer["best"]["metric_mean"] <= 1
    assert "runs" not in result.stderr  # no progress
    counted = json.loads(run("count", tmp_path / "run", "--json").stdout)
    assert counted["trainable_params"] == answer["best"]["trainable_params"]


def test_a_file_of_a_search_space_is_checked_and_printed(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("about: mine\nmethods: {lora: {placement: [q+v]}}\n", encoding="utf-8")
    assert run("info", "spaces", str(path)).stdout == path.read_text(encoding="utf-8")
    path.write_text("about: mine\nmethods: {lora: {placement: [q+w]}}\n", encoding="utf-8")
    refused = run("info", "spaces", str(path))
    assert refused.exit_code == 2


def test_methods_formats_and_spaces_are_listed():
    assert set(json.loads(run("info", "methods", "--json").stdout)) >= {"lora", "ia3", "bitfit", "ln_tuning"}
    assert set(json.loads(run("info", "spaces", "--json").stdout)) >= {"default", "lora_only", "tiny_budget"}
    assert json.loads(run("info", "formats", "--json").stdout) == {
        name: exporter.summary for name, exporter in discover("autopeft.exports").items()
    }


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"rank": 10**15}, 2, ("rank of lora",)),
        ({"method": "lroa"}, 2, ("'lroa'", "lora")),
        ({"method": "ln_tuning", "rank": 0}, 3, ("ln_tuning",)),
        ({"rank": 3}, 2, ("trainable_params",)),
    ],
)
def test_plan_edited_into_nonsense_is_refused_before_any_work(
    change, code, words, model_dir, data_dir, tmp_path
):
    adapter = Adapter(method="lora", target="bert.encoder.layer.0.attention.self.query", rank=2, scale=2.0)
    plan = Plan(adapters=(replace(adapter, **change),), learning_rate=1e-3, trainable_params=2 * (32 + 32))
    spec = run_spec(model_dir)
    sizes = {"base_params": 1, "head_params": 66, "schedule": "any", "seed": 0}
    data = spec.data.model_copy(update={"source": str(data_dir)})
    document = PlanDocument(plan=plan, model=spec.model, data=data, task=spec.task, **sizes)
    write_plan(tmp_path / "plan.yaml", document)
    refused(run("count", tmp_path / "plan.yaml"), code, *words)
    refused(run("train", "--plan", tmp_path / "plan.yaml", "--out", tmp_path / "out"), code, *words)
    assert [path.name for path in tmp_path.iterdir()] == ["plan.yaml"]


def test_search_for_a_server_keeps_to_what_it_reads(model_dir, data_dir, tmp_path):
    flags = ("--budget", "50%", "--space", "everything", "--serve-on", "vllm", "--dry-run")
    found = search(model_dir, data_dir, tmp_path / "run", *flags, "--json")
    assert json.loads(found.stdout)["methods"] == ["lora"]
    refused(search(model_dir, data_dir, tmp_path / "run", *flags, "--methods", "ia3"), 2)
    refused(search(model_dir, data_dir, tmp_path / "run", "--serve-on", "vlm"), 2, "vllm")
    assert not (tmp_path / "run").exists()


def test_train_checks_the_seed_and_the_folder_first(finished, tmp_path):
    refused(run("train", "--plan", finished, "--out", tmp_path / "adapter", "--seed", -1), 2, "--seed")
    (tmp_path / "file").write_text("", encoding="utf-8")
    refused(run("train", "--plan", finished, "--out", tmp_path / "file" / "x"), 2, "file")


def test_model_without_tokenizer_or_with_torn_weights_is_refused(model_dir, data_dir, tmp_path):
    wordless = shutil.copytree(model_dir, tmp_path / "wordless")
    for file in wordless.glob("tokenizer*"):
        file.unlink()
    refused(search(wordless, data_dir, tmp_path / "run"), 2)
    torn = shutil.copytree(model_dir, tmp_path / "torn")
    (torn / "model.safetensors").rename(torn / "pytorch_model.bin")
    refused(search(torn, data_dir, tmp_path / "run"), 2, "torn")
    assert not (tmp_path / "run").exists()
