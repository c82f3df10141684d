"""`best/weights` can be pushed as it is: its card is valid, and `peft` alone loads it with named labels."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import replace
from importlib import import_module

import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelCard
from toys.bases import adapters_of
from toys.commands import refused
from toys.hub import Hub
from toys.results import toy_result
from toys.words import LABEL_NAMES
from transformers import AutoModelForSequenceClassification
from typer.testing import CliRunner

import autopeft
from autopeft.cli.app import app
from autopeft.commands import apply, train_plan
from autopeft.errors import ModelError
from autopeft.exports import write_loading_files
from autopeft.plugins import discover
from autopeft.report.page import python_lines
from autopeft.report.part_words import part_words
from autopeft.report.write_card import write_card
from autopeft.setup.build import prepare
from autopeft.store import RunDir, read_plan, write_plan
from autopeft.train import WRITTEN_TEXTS
from autopeft.types import Plan


@pytest.fixture
def run(finished):
    """The finished search of texts."""
    return finished


def lines_of(card):
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    return code


def label_by(card):
    """The label that a text gets from a model loaded by the lines of a card."""
    lines: dict = {}
    exec(lines_of(card), lines)
    logits = lines["model"](**lines["tokenizer"](["a film"], return_tensors="pt")).logits
    return lines["model"].config.id2label[int(logits.argmax())]


def test_card_has_what_the_hub_reads_and_the_numbers_of_the_run(run):
    card = ModelCard.load(run / "best/weights/README.md")
    answer = json.loads((run / "result.json").read_text())
    data = card.data
    assert (data.library_name, data.pipeline_tag) == ("peft", "text-classification")
    methods = {adapter["method"] for adapter in answer["best"]["plan"]["adapters"]}
    assert {"autopeft", "transformers", *methods} <= set(data.tags)
    (result,) = data.eval_results
    assert (result.dataset_split, result.metric_type) == ("test", "accuracy")
    assert result.metric_value == answer["refit"]["test"]["metric_mean"]
    assert answer["verdict"]["sentence"].replace(" -", " \N{MINUS SIGN}") in card.text
    assert card.text.count(f"{answer['best']['trainable_params']:,}") >= 2


def test_base_model_of_the_hub_is_named_with_its_relation_and_a_folder_is_not(run, tmp_path):
    result = toy_result()
    named = replace(result, setting=replace(result.setting, base_model="a/b", base_model_source="a/b"))
    write_card(tmp_path, named)
    data = ModelCard.load(tmp_path / "README.md").data.to_dict()
    assert (data["base_model"], data["base_model_relation"]) == ("a/b", "adapter")
    assert "base_model:adapter:a/b" in data["tags"]
    local = ModelCard.load(run / "best/weights/README.md").data.to_dict()
    assert "base_model" not in local and "base_model_relation" not in local


def test_peft_loads_the_folder_by_the_lines_of_the_card_and_labels_have_names(run, monkeypatch):
    monkeypatch.chdir(run)
    assert label_by((run / "best/weights/README.md").read_text(encoding="utf-8")) in LABEL_NAMES


def test_a_plan_of_one_method_in_several_configs_loads_by_the_lines_of_report_and_card(
    run, model_dir, tmp_path, monkeypatch
):
    """LoRA has a config with DoRA and one without."""
    result, lora = RunDir.open(run).load_result(), discover("autopeft.methods")["lora"]
    q, up = ([target for target in result.targets if target.role == role] for role in ("q", "up"))
    adapters = (*adapters_of(lora, q, rank=2), *adapters_of(lora, up, rank=2, dora=True))
    targets = {target.name: target for target in result.targets}
    n_params = sum(lora.cost(targets[a.target], a.rank, dict(a.options)) for a in adapters)
    document = read_plan(run / "best")
    plan = Plan(adapters=adapters, learning_rate=0.05, trainable_params=n_params)
    write_plan(tmp_path / "plan.yaml", replace(document, plan=plan))
    train_plan(tmp_path / "plan.yaml", out=tmp_path / "best" / "weights")
    full_runs = (replace(result.full_runs[0], plan=plan), *result.full_runs)
    result = replace(result, best=plan, full_runs=full_runs, test=())
    prepared = prepare(result.spec)
    write_loading_files(tmp_path / "best" / "weights", prepared.spec.model, prepared.base, prepared.data)
    write_card(tmp_path / "best" / "weights", result)
    base = AutoModelForSequenceClassification.from_pretrained(model_dir, num_labels=2)
    expected = apply(plan, base, weights=tmp_path / "best" / "weights").eval()
    monkeypatch.chdir(tmp_path)
    card = (tmp_path / "best" / "weights" / "README.md").read_text(encoding="utf-8")
    for code in (python_lines(result, part_words(result)), lines_of(card)):
        lines: dict = {}
        exec(code, lines)
        inputs = lines["tokenizer"](["a film", "bad"], return_tensors="pt", padding=True)
        with torch.no_grad():
            torch.testing.assert_close(lines["model"](**inputs).logits, expected(**inputs).logits)


def test_a_run_is_loaded_into_its_own_base_model_alone(run, model_dir):
    result = autopeft.load_result(run)
    own = AutoModelForSequenceClassification.from_pretrained(model_dir, num_labels=2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        other = AutoModelForSequenceClassification.from_config(own.config)
    with pytest.raises(ModelError, match="other weights"):
        result.load(other)
    rounded = copy.deepcopy(own).bfloat16()
    assert result.load(rounded) is not None  # the same model in half the bits
    assert result.load(own) is not None


def push(*arguments):
    return CliRunner().invoke(app, ["push", *(str(argument) for argument in arguments)])


@pytest.fixture
def hub(monkeypatch):
    """What `push` takes for the hub; one repository is taken."""
    hub = Hub(["me/taken"])
    monkeypatch.setattr(import_module("autopeft.commands.push"), "HfApi", lambda: hub)
    return hub


def test_dry_run_lists_the_files_and_uploads_nothing(run, hub):
    result = push(run, "me/new", "--base-model", "org/tiny-bert", "--dry-run", "--json")
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    here = {path.name for path in (run / "best/weights").iterdir()}
    assert set(answer["files"]) == here >= {"README.md", "adapter_model.safetensors", "config.json"}
    assert answer["url"] is None and hub.repositories.keys() == {"me/taken"}


def test_push_uploads_the_folder_with_a_base_model_that_others_have(run, hub):
    result = push(run, "me/new", "--base-model", "org/tiny-bert", "--private")
    assert result.exit_code == 0, result.output
    files = hub.repositories["me/new"]
    weights = run / "best/weights"
    assert set(files) >= {path.name for path in weights.iterdir()}
    assert files["adapter_model.safetensors"] == (weights / "adapter_model.safetensors").read_bytes()
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "org/tiny-bert"
    card = files["README.md"].decode()
    assert 'from_pretrained(base_model, "me/new")' in card and "base_model: org/tiny-bert" in card
    assert str(run.parent) not in card
    assert hub.private["me/new"] is True


def test_repository_that_exists_is_overwritten_only_on_request(run, hub):
    flags = (run, "me/taken", "--base-model", "org/tiny-bert")
    refused(push(*flags), 2, "--overwrite")
    assert hub.repositories["me/taken"] == {}
    assert push(*flags, "--overwrite").exit_code == 0
    assert "README.md" in hub.repositories["me/taken"]


def test_push_refuses_what_would_be_of_no_use_to_others(run, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_standin")
    refused(push(run, "me/new"), 2, "--base-model")
    refused(push(run, "no name"), 2, "user/name")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    refused(push(run, "me/new", "--base-model", "org/tiny-bert"), 1, "HF_HUB_OFFLINE")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    refused(push(run, "me/new", "--base-model", "org/tiny-bert"), 1, "me/new")


@pytest.fixture(scope="module")
def trained(finished, tmp_path_factory):
    out = tmp_path_factory.mktemp("trained") / "adapter"
    train_plan(finished / "best", out=out)
    return out


def test_card_of_train_has_its_score_and_lines_that_load_it(trained, monkeypatch):
    card = ModelCard.load(trained / "README.md")
    (result,) = card.data.eval_results
    measured = json.loads((trained / "training.json").read_text())
    assert (result.dataset_split, result.metric_value) == ("confirm", measured["metric"])
    assert card.data.library_name == "peft"
    monkeypatch.chdir(trained.parent)
    assert label_by(card.content) in LABEL_NAMES


def test_folder_of_train_is_pushed_without_paths_of_this_machine(trained, run, hub):
    (trained / WRITTEN_TEXTS).write_text('{"prompt": "a secret of the data"}')  # as a text metric leaves it
    refused(push(trained, "me/other"), 2, "--base-model")
    result = push(trained, "me/other", "--base-model", "org/tiny-bert")
    assert result.exit_code == 0, result.output
    files = hub.repositories["me/other"]
    assert {"README.md", "adapter_model.safetensors", "config.json", "plan.yaml"} <= set(files)
    assert [name for name, content in files.items() if b"/pytest-" in content or b"secret" in content] == []
    assert 'from_pretrained(base_model, "me/other")' in files["README.md"].decode()
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "org/tiny-bert"
