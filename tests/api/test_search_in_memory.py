"""A search of a model and a dataset that are objects: the same results, and nothing is changed."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import datasets
import peft
import pytest
import torch
from toys.bases import state_of
from toys.memory import SMALL, same_weights, toy_dataset, weights_of
from toys.specs import run_spec
from transformers import AutoModelForSequenceClassification
from typer.testing import CliRunner

import autopeft
from autopeft import commands
from autopeft.cli.app import app
from autopeft.errors import AutopeftError, DataError, ModelError
from autopeft.model import restoring
from autopeft.report.progress import Lines
from autopeft.types import IN_MEMORY


def with_mixed_column():
    return toy_dataset().to_pandas().assign(mixed=[1, "one"] * 60)


def thrice():
    rows = toy_dataset().to_dict()
    return datasets.Dataset.from_dict({**rows, "label": [("a", "b", "c")[i % 3] for i in range(120)]})


def test_module_in_memory_comes_back_as_it_was(run):
    module, (weights, state, config), _, _ = run
    assert same_weights(weights, weights_of(module))
    assert vars(state_of(module)) == vars(state)
    assert module.config.to_dict() == config


def test_module_comes_back_where_a_signal_ended_the_removal_of_its_adapters(module):
    weights, state = weights_of(module), state_of(module)
    with pytest.raises(KeyboardInterrupt), restoring(module):
        peft.get_peft_model(module, peft.LoraConfig(target_modules=["query"], modules_to_save=["classifier"]))
        raise KeyboardInterrupt
    assert same_weights(weights, weights_of(module)) and not hasattr(module, "peft_config")
    assert vars(state_of(module)) == vars(state)


def test_a_search_in_memory_is_the_search_of_the_same_rows_on_the_disk(run, tokenizer, tmp_path):
    module, _, result, data = run
    module.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "data").mkdir()
    for name, table in data.items():
        table.to_parquet(tmp_path / "data" / f"{name}.parquet")
    named = autopeft.search(model=tmp_path / "model", data=tmp_path / "data", out=tmp_path / "run", **SMALL)
    assert named.setting.data_fingerprint == result.setting.data_fingerprint
    assert [(m.plan, m.loss, m.metric) for m in named.measurements] == [
        (m.plan, m.loss, m.metric) for m in result.measurements
    ]


def test_a_run_is_continued_with_the_same_things_in_memory(run, tokenizer, tmp_path):
    module, _, result, data = run
    out = shutil.copytree(result.spec.output.out, tmp_path / "run")
    again = autopeft.search(model=module, data=data, tokenizer=tokenizer, out=out, resume=True)
    assert again.measurements == result.measurements


def test_what_was_in_memory_is_asked_for_in_one_sentence_and_not_guessed(run, tokenizer):
    module, _, result, _ = run
    out = Path(result.spec.output.out)
    before = (out / "result.json").read_bytes()
    missing_model = "in memory"
    with pytest.raises(ModelError, match=missing_model):
        commands.run_search(run_spec(out=out), resume=True, progress=Lines())
    with pytest.raises(ModelError, match=missing_model):
        commands.train_plan(out)
    with pytest.raises(ModelError, match=missing_model):
        commands.count(out / "best" / "plan.yaml")
    with pytest.raises(DataError, match="in memory"):
        autopeft.search(model=module, tokenizer=tokenizer, out=out, resume=True)
    assert (out / "result.json").read_bytes() == before


@pytest.fixture(scope="session")
def trained_run(model_dir, tokenizer, tmp_path_factory):
    """A search of a model that was trained on after it was loaded: the folder of the model, and the run."""
    folder = tmp_path_factory.mktemp("trained")
    shutil.copytree(model_dir, folder / "model")
    module = AutoModelForSequenceClassification.from_pretrained(folder / "model", num_labels=2)
    with torch.no_grad():
        module.bert.encoder.layer[0].output.dense.weight.mul_(1.5)
    data = {"train": toy_dataset(), "validation": toy_dataset(40, 1)}
    search = {**SMALL, "effort": "quick"}
    result = autopeft.search(model=module, data=data, tokenizer=tokenizer, out=folder / "run", **search)
    return module, folder, result


def test_a_model_that_was_trained_in_memory_is_not_taken_for_its_checkpoint(trained_run):
    _, folder, result = trained_run
    weights = folder / "run" / "best" / "weights"
    configs = [json.loads(path.read_text()) for path in weights.rglob("adapter_config.json")]
    assert configs and all(not config["base_model_name_or_path"] for config in configs)
    for path in (weights / "README.md", folder / "run" / "report.md"):
        text = path.read_text(encoding="utf-8")
        assert "# base_model: the model in memory" in text
        assert f'"{folder / "model"}"' not in text
    assert result.setting.base_model_source == IN_MEMORY


def test_adapters_of_a_trained_model_are_not_put_on_another(trained_run):
    module, folder, result = trained_run
    fresh = AutoModelForSequenceClassification.from_pretrained(folder / "model", num_labels=2)
    with pytest.raises(ModelError, match="other weights"):
        result.load(fresh)
    arguments = ["check", str(folder / "run"), "--model", str(folder / "model")]
    refused = CliRunner().invoke(app, arguments)
    assert refused.exit_code == 2
    copied = copy.deepcopy(module)
    adapted = result.load(copied)
    with pytest.raises(ModelError, match="adapters of peft already"):
        result.load(copied)
    assert sum(p.numel() for p in adapted.parameters() if p.requires_grad) >= result.best.trainable_params


def test_a_model_that_is_as_it_was_loaded_is_named(model_dir, tokenizer, tmp_path):
    module = AutoModelForSequenceClassification.from_pretrained(model_dir, num_labels=2)
    search = {**SMALL, "trials": 3, "out": tmp_path / "run"}
    autopeft.search(model=module, data=toy_dataset(), tokenizer=tokenizer, **search)
    card = (tmp_path / "run" / "best" / "weights" / "README.md").read_text(encoding="utf-8")
    assert f'name = "{model_dir}"' in card


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda module, search: search.update(tokenizer=None), "tokenizer="),
        (lambda module, search: module.double(), "float64"),
        (lambda module, search: search.update(model=module.bert), "BertModel"),
        (lambda module, search: search.update(model=torch.compile(module)), "_orig_mod"),
        (lambda module, search: search.update(model=torch.nn.DataParallel(module)), "module"),
        (lambda module, search: search.update(data=thrice()), "num_labels=3"),
        (lambda module, search: search.update(data=with_mixed_column()), "Pass only the columns"),
    ],
)
def test_what_cannot_be_searched_in_memory_is_refused(module, tokenizer, tmp_path, change, message):
    arguments = {"model": module, "data": toy_dataset(), "tokenizer": tokenizer}
    change(module, arguments)
    weights, state = weights_of(module), state_of(module)
    with pytest.raises(AutopeftError, match=message):
        autopeft.search(**arguments, out=tmp_path / "run", **SMALL)
    assert same_weights(weights, weights_of(module))
    assert vars(state_of(module)) == vars(state)
    assert not (tmp_path / "run").exists()
