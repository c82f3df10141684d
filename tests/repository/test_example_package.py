"""A package that is installed beside autopeft brings a part of each kind, and nothing else is changed."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file
from sklearn.metrics import cohen_kappa_score
from transformers import AutoModelForSequenceClassification, AutoTokenizer

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "tests" / "example_package"
EXAMPLE_PARTS = {"query_lora", "weight_norm", "kappa", "confident-classification", "thread", "table"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example as pip installs it, from this checkout and without the network."""
    folder = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--no-index"]
    built = ["--no-deps", "--no-build-isolation", "--target", str(folder), str(EXAMPLE)]
    subprocess.run([*pip, *built], check=True)
    return folder


def python(site: Path | None, *arguments: object) -> subprocess.CompletedProcess[str]:
    """What a fresh interpreter says that has this checkout, and the example where `site` has it."""
    paths = [str(folder) for folder in (site, ROOT, ROOT / "tests") if folder is not None]
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
    )


def autopeft(site: Path | None, *arguments: object) -> subprocess.CompletedProcess[str]:
    return python(site, "-m", "autopeft", *arguments)


def answer(site: Path, *arguments: object) -> Any:
    done = autopeft(site, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def run(site: Path, model_dir: Path, data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("example") / "run"
    parts = ("--task", "confident-classification", "--score", "weight_norm", "--executor", "thread")
    small = ("--budget", "3%", "--max-steps", 8, "--batch-size", 8, "--trials", 4, "--confirm-seeds", 2)
    where = ("--model", model_dir, "--data", data_dir, "--space", EXAMPLE / "space.yaml", "--out", out)
    answer(site, "search", *where, *parts, *small)
    return out


KNOWN = """
import json
from autopeft.extension import discover
from repository.readme_tables import method_table
folders = ("methods", "sensitivity", "metrics", "tasks", "executors", "exports")
names = {folder: list(discover(f"autopeft.{folder}")) for folder in folders}
print(json.dumps({"names": names, "table": method_table()}))
"""


def test_part_of_each_kind_is_known_by_its_name_and_listed_with_its_label(site: Path) -> None:
    done = python(site, "-c", KNOWN)
    assert done.returncode == 0, done.stderr
    known = json.loads(done.stdout)
    assert {folder: set(names) & EXAMPLE_PARTS for folder, names in known["names"].items()} == {
        "methods": {"query_lora"},
        "sensitivity": {"weight_norm"},
        "metrics": {"kappa"},
        "tasks": {"confident-classification"},
        "executors": {"thread"},
        "exports": {"table"},
    }
    assert "| `query_lora` | query LoRA | LoRA at query maps |" in known["table"]
    assert autopeft(site, "methods", "query_lora").stdout.startswith("query_lora: query LoRA\n")


def test_score_from_outside_gives_the_norms_of_the_weights(
    site: Path, model_dir: Path, data_dir: Path, tmp_path: Path
) -> None:
    where = ("--model", model_dir, "--data", data_dir, "--budget", "5%", "--out", tmp_path / "out")
    answer(site, "analyze", *where, "--scores", "weight_norm", "--max-examples", 32)
    weights = load_file(model_dir / "model.safetensors")
    with (tmp_path / "out" / "sensitivity.csv").open(encoding="utf-8", newline="") as stream:
        norms = {
            row["site"].removeprefix("bert."): float(row["weight_norm"]) for row in csv.DictReader(stream)
        }
    maps = {name: value for name, value in norms.items() if f"{name}.weight" in weights}
    assert len(maps) >= 12
    for name, value in maps.items():
        assert value == pytest.approx(float(weights[f"{name}.weight"].double().square().sum()), rel=1e-6)


def test_search_uses_method_score_and_metric_from_outside(run: Path) -> None:
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    assert (result["task"], result["metric"]) == ("confident-classification", "confidence")
    assert result["sensitivity"]["score"] == "weight_norm"
    with (run / "trials.csv").open(encoding="utf-8", newline="") as stream:
        arms = {row["arm"] for row in csv.DictReader(stream)}
    assert any(arm.startswith("query_lora/") for arm in arms)


def test_report_has_the_labels_and_the_model_class_that_parts_from_outside_give(run: Path) -> None:
    text = (run / "report.md").read_text(encoding="utf-8")
    assert "thread, 1 at a time" in text
    assert "query LoRA r " in text and "query_lora r " not in text
    assert "base_model = AutoModelForSequenceClassification.from_pretrained(" in text


def probabilities(run: Path, model_dir: Path, data_dir: Path) -> tuple[torch.Tensor, list[int]]:
    """What the best plan's weights give on the validation file, shape (N, 2), and the right classes."""
    base = AutoModelForSequenceClassification.from_pretrained(model_dir, num_labels=2)
    model = PeftModel.from_pretrained(base, run / "best" / "weights").eval()
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    with (data_dir / "validation.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    with torch.no_grad():
        of_rows = [model(**tokenizer(row["text"], return_tensors="pt")).logits.softmax(-1)[0] for row in rows]
    return torch.stack(of_rows), [("neg", "pos").index(row["label"]) for row in rows]


def saved_metric(run: Path) -> float:
    training = json.loads((run / "best" / "weights" / "training.json").read_text(encoding="utf-8"))
    return float(training["metric"])


def test_metric_of_a_task_from_outside_is_the_mean_probability_of_the_right_class(
    run: Path, model_dir: Path, data_dir: Path
) -> None:
    likelihoods, truth = probabilities(run, model_dir, data_dir)
    right = likelihoods[torch.arange(len(truth)), truth]
    assert float(right.double().mean()) == pytest.approx(saved_metric(run), abs=1e-6)


def test_metric_from_outside_judges_a_task_of_autopeft(
    site: Path, model_dir: Path, data_dir: Path, tmp_path: Path
) -> None:
    where = ("--model", model_dir, "--data", data_dir, "--out", tmp_path / "run", "--budget", "5%")
    small = ("--max-steps", 30, "--batch-size", 8, "--trials", 2, "--confirm-seeds", 2)
    assert answer(site, "search", *where, *small, "--metric", "kappa")["metric"] == "kappa"
    likelihoods, truth = probabilities(tmp_path / "run", model_dir, data_dir)
    kappa = cohen_kappa_score(truth, likelihoods.argmax(-1).tolist())
    assert kappa > 0
    assert kappa == pytest.approx(saved_metric(tmp_path / "run"), abs=1e-9)


def test_plan_of_a_method_from_outside_is_counted_and_exported(site: Path, run: Path, tmp_path: Path) -> None:
    plan = yaml.safe_load((run / "best" / "plan.yaml").read_text(encoding="utf-8"))
    assert answer(site, "count", run)["trainable_params"] == plan["trainable_params"]
    answer(site, "export", "--run", run, "--to", "table", "--out", tmp_path / "table")
    assert len((tmp_path / "table" / "table.txt").read_text(encoding="utf-8").splitlines()) >= 1


def test_without_the_package_its_names_are_unknown(model_dir: Path, data_dir: Path) -> None:
    where = ("--model", model_dir, "--data", data_dir)
    refused = autopeft(None, "analyze", *where, "--scores", "weight_norm")
    assert refused.returncode == 2
    assert "There is no score named 'weight_norm'" in refused.stderr
