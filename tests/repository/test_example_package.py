"""A package that is installed next to autopeft adds a plug-in of each kind, and changes nothing else."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file
from sklearn.metrics import cohen_kappa_score
from transformers import AutoModelForSequenceClassification, AutoTokenizer

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "tests" / "example_package"
EXAMPLE_PLUGINS = {"query_lora", "weight_norm", "kappa", "confident-classification"}


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example as pip installs it, from this checkout and without the network."""
    folder = tmp_path_factory.mktemp("target")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--no-index"]
    built = ["--no-deps", "--no-build-isolation", "--target", str(folder), str(EXAMPLE)]
    subprocess.run([*pip, *built], check=True)
    return folder


def python(target: Path, code: str, *arguments: object) -> str:
    """What code prints in a fresh interpreter that has this checkout and the example."""
    paths = [str(folder) for folder in (target, ROOT, ROOT / "tests")]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# Each command line in turn, in one process: a process of its own costs seconds of imports.
COMMANDS = """
import json, sys
from typer.testing import CliRunner
from autopeft.cli.app import app
done = [CliRunner().invoke(app, words) for words in json.loads(sys.argv[1])]
print(json.dumps([(result.exit_code, result.stdout, result.stderr) for result in done]))
"""


KNOWN = """
from autopeft.plugins import discover
from tools.docs.method_tables import method_table
folders = ("methods", "sensitivity", "metrics", "tasks")
names = {folder: list(discover(f"autopeft.{folder}")) for folder in folders}
print(json.dumps({"names": names, "table": method_table()}))
"""


def words_of(commands: Iterable[tuple[object, ...]]) -> str:
    return json.dumps([[str(word) for word in command] for command in commands])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("example")


@pytest.fixture(scope="module")
def outputs(target: Path, model_dir: Path, data_dir: Path, folder: Path) -> dict[str, str]:
    """Stdout of command lines that use plug-ins of the example, and as `known` the names of all."""
    data = ("--model", model_dir, "--data", data_dir)
    parts = ("--task", "confident-classification", "--score", "weight_norm")
    small = ("--batch-size", 8)
    commands = {
        "analyze": (*data, "--scores", "weight_norm", "--max-examples", 32),
        "search": (
            *data,
            *parts,
            *small,
            *"--budget 3% --max-steps 8 --trials 5 --methods query_lora".split(),
        ),
        "kappa": (*data, *small, "--budget", "5%", "--max-steps", 30, "--metric", "kappa"),
        "export": (folder / "search", "--to", "native"),
    }
    commands["search"] += ("--space", EXAMPLE / "space.yaml")
    lines = [
        ("search" if name == "kappa" else name, *words, "--out", folder / name, "--json")
        for name, words in commands.items()
    ]
    lines += [("count", folder / "search", "--json"), ("info", "methods", "query_lora")]
    answers, known = python(target, COMMANDS + KNOWN, words_of(lines)).splitlines()[-2:]
    done = json.loads(answers)
    assert [(code, errors) for code, _, errors in done if code] == []
    named = zip((*commands, "count", "methods"), (output for _, output, _ in done), strict=True)
    return {"known": known, **dict(named)}


@pytest.fixture(scope="module")
def run(outputs: dict[str, str], folder: Path) -> Path:
    """The folder of a search with the example's task, method, score and metric."""
    return folder / "search"


def test_plugin_of_each_kind_is_known_by_its_name_and_listed_with_its_label(outputs: dict[str, str]) -> None:
    known = json.loads(outputs["known"])
    assert {folder: set(names) & EXAMPLE_PLUGINS for folder, names in known["names"].items()} == {
        "methods": {"query_lora"},
        "sensitivity": {"weight_norm"},
        "metrics": {"kappa"},
        "tasks": {"confident-classification"},
    }
    assert "| `query_lora` | query LoRA | LoRA at queries |" in known["table"]
    assert outputs["methods"].startswith("query_lora: query LoRA\n")


def test_score_from_outside_gives_the_norms_of_the_weights(
    outputs: dict[str, str], folder: Path, model_dir: Path
) -> None:
    weights = load_file(model_dir / "model.safetensors")
    with (folder / "analyze" / "sensitivity.csv").open(encoding="utf-8", newline="") as stream:
        norms = {
            row["target"].removeprefix("bert."): float(row["weight_norm"]) for row in csv.DictReader(stream)
        }
    layers = {name: value for name, value in norms.items() if f"{name}.weight" in weights}
    assert len(layers) >= 12
    for name, value in layers.items():
        assert value == pytest.approx(float(weights[f"{name}.weight"].double().square().sum()), rel=1e-6)


def test_search_uses_method_score_and_metric_from_outside(run: Path) -> None:
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    assert (result["task"], result["metric"]) == ("confident-classification", "confidence")
    assert result["sensitivity"]["score"] == "weight_norm"
    with (run / "trials.csv").open(encoding="utf-8", newline="") as stream:
        arms = {row["arm"] for row in csv.DictReader(stream)}
    assert any(arm.startswith("query_lora/") for arm in arms)


def probabilities(run: Path, model_dir: Path, data_dir: Path) -> tuple[torch.Tensor, list[int]]:
    """What the best plan's weights give on the validation file, shape (N, 2), and the right classes."""
    base = AutoModelForSequenceClassification.from_pretrained(model_dir, num_labels=2)
    model = PeftModel.from_pretrained(base, run / "best" / "judged").eval()
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    with (data_dir / "validation.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    with torch.no_grad():
        of_rows = [model(**tokenizer(row["text"], return_tensors="pt")).logits.softmax(-1)[0] for row in rows]
    return torch.stack(of_rows), [("neg", "pos").index(row["label"]) for row in rows]


def saved_metric(run: Path) -> float:
    training = json.loads((run / "best" / "judged" / "training.json").read_text(encoding="utf-8"))
    return float(training["metric"])


def test_metric_of_a_task_from_outside_is_the_mean_probability_of_the_right_class(
    run: Path, model_dir: Path, data_dir: Path
) -> None:
    likelihoods, truth = probabilities(run, model_dir, data_dir)
    right = likelihoods[torch.arange(len(truth)), truth]
    assert float(right.double().mean()) == pytest.approx(saved_metric(run), abs=1e-6)


def test_metric_from_outside_judges_a_task_of_autopeft(
    outputs: dict[str, str], folder: Path, model_dir: Path, data_dir: Path
) -> None:
    assert json.loads(outputs["kappa"])["metric"] == "kappa"
    likelihoods, truth = probabilities(folder / "kappa", model_dir, data_dir)
    kappa = cohen_kappa_score(truth, likelihoods.argmax(-1).tolist())
    assert kappa > 0
    assert kappa == pytest.approx(saved_metric(folder / "kappa"), abs=1e-9)


def test_plan_of_a_method_from_outside_is_counted_and_exported(
    outputs: dict[str, str], run: Path, folder: Path
) -> None:
    plan = yaml.safe_load((run / "best" / "plan.yaml").read_text(encoding="utf-8"))
    assert json.loads(outputs["count"])["trainable_params"] == plan["trainable_params"]
    assert list((folder / "export").rglob("adapter_config.json"))
