"""A result that is loaded: labels in the order of its head, from any working directory."""

from __future__ import annotations

import shutil

import peft
import pytest

import autopeft
from autopeft.errors import RunDirError
from autopeft.report import BEST_WEIGHTS


@pytest.fixture
def swapped(run, make_base):
    """A fresh base model whose config has the labels of the run in another order."""
    module, names = make_base("bert").module, run[2].setting.label_names
    module.config.id2label = dict(enumerate(reversed(names)))
    module.config.label2id = {name: index for index, name in module.config.id2label.items()}
    return module


def test_a_loaded_head_has_the_labels_in_the_order_it_was_trained_on(run, swapped):
    result = run[2]
    loaded = result.load(swapped)
    names = [loaded.config.id2label[index] for index in range(2)]
    assert names == list(result.setting.label_names)
    assert [loaded.config.label2id[name] for name in names] == [0, 1]


def test_the_pasted_lines_of_a_run_in_memory_name_the_labels_too(run, swapped, monkeypatch):
    result = run[2]
    report = (result.path / "report.md").read_text(encoding="utf-8")
    (lines,) = (part for part in report.split("```") if "base_model: the model in memory" in part)
    monkeypatch.chdir(result.path)
    scope = {"base_model": swapped}
    exec(lines.removeprefix("python\n"), scope)
    assert [scope["model"].config.id2label[index] for index in range(2)] == list(result.setting.label_names)


def test_a_result_from_a_relative_folder_is_found_from_another_one(run, make_base, tmp_path, monkeypatch):
    shutil.copytree(run[2].path, tmp_path / "runs" / "a")
    monkeypatch.chdir(tmp_path)
    result = autopeft.load_result("runs/a")
    assert repr(result).endswith("runs/a)") and str(tmp_path) not in repr(result) + result._repr_html_()
    monkeypatch.chdir(tmp_path / "runs")
    assert result.load(make_base("bert").module).peft_config
    assert result.path == tmp_path / "runs" / "a"
    (tmp_path / "runs" / "a").rename(tmp_path / "moved")
    with pytest.raises(RunDirError, match="does not exist"):
        result.load(make_base("bert").module)
    shutil.rmtree(tmp_path / "moved" / BEST_WEIGHTS)
    with pytest.raises(RunDirError, match="best/weights"):
        autopeft.load_result(tmp_path / "moved").load(make_base("bert").module)


def test_config_and_rate_of_a_result_train_as_many_parameters_as_the_best_plan(run, make_base):
    result = run[2]
    adapted = peft.get_peft_model(make_base("bert").module, result.config)
    n_trained = sum(
        weight.numel()
        for name, weight in adapted.named_parameters()
        if weight.requires_grad and "modules_to_save" not in name
    )
    assert n_trained == result.best.trainable_params
    assert result.learning_rate == result.best.learning_rate


def test_a_loaded_result_equals_the_one_that_the_search_returned(run):
    result = run[2]
    loaded = autopeft.load_result(result.path)
    assert loaded == result
    assert repr(loaded) == repr(result) and repr(result).startswith(f"{autopeft.Result.__name__}(")
    assert isinstance(result, autopeft.Result) and isinstance(result, autopeft.SearchResult)
