"""`methods --model` tells learning rates on a base model from its config alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import transformers
from typer.testing import CliRunner

from autopeft.cli.app import app
from autopeft.extension import discover

METHODS = discover("autopeft.methods")


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config of a Llama of hidden size 3,072, without weights."""
    folder = tmp_path_factory.mktemp("wide")
    transformers.LlamaConfig(
        hidden_size=3072,
        num_hidden_layers=2,
        num_attention_heads=24,
        vocab_size=64,
        architectures=["LlamaForCausalLM"],
    ).save_pretrained(folder)
    return folder


def run(*arguments: object) -> str:
    done = CliRunner().invoke(app, ["methods", *map(str, arguments)], env={"COLUMNS": "80"})
    assert done.exit_code == 0, done.output
    return done.stdout


def test_json_lists_every_method_with_its_range_at_the_models_width(wide: Path) -> None:
    answer = json.loads(run("--model", wide, "--json"))
    assert answer.keys() == json.loads(run("--json")).keys()
    entries = list(answer.values())
    found = {entry["name"]: tuple(entry["learning_rate_range"]) for entry in entries}
    assert found == {name: method.at_width(3072).learning_rate_range for name, method in METHODS.items()}
    assert {(entry["hidden_size"], entry["base_model"]) for entry in entries} == {(3072, str(wide))}
    n_sites = {entry["name"]: entry["n_sites"] for entry in entries}
    assert (n_sites["lora"], n_sites["ln_tuning"], n_sites["bitfit"]) == (14, 5, 0)  # 7 maps, 2 norms a layer


def test_table_names_model_and_width_in_80_columns(wide: Path) -> None:
    lines = run("--model", wide).splitlines()
    assert max(map(len, lines[1:])) <= 80 and "hidden size 3,072" in lines[0]
    assert [line.split()[0] for line in lines[3:]] == list(METHODS)


def test_a_model_without_a_config_is_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["methods", "--model", str(tmp_path)])
    assert done.exit_code == 2 and "Traceback" not in done.output and str(tmp_path) in done.stderr
