"""`count` with a word in place of a path: a method at all of its target modules, against a closed form."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import transformers
from typer.testing import CliRunner, Result

from autopeft.cli.app import app

HIDDEN, INNER, N_LAYERS, WORDS = 32, 64, 5, 2000


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["count", *map(str, arguments)])


def llama_config() -> transformers.LlamaConfig:
    return transformers.LlamaConfig(
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=2,
        vocab_size=WORDS,
        architectures=["LlamaForCausalLM"],
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("llama")
    llama_config().save_pretrained(path)
    return path


def test_a_method_is_counted_where_no_such_path_exists(folder: Path) -> None:
    lora = json.loads(run("lora_r4", "--model", folder, "--json").stdout)
    n_params = N_LAYERS * 4 * (4 * 2 * HIDDEN + 3 * (HIDDEN + INNER))
    assert lora["trainable_params"] == n_params
    assert lora["ranks"]["q"] == [4, 4]
    n_base = N_LAYERS * (4 * HIDDEN**2 + 3 * HIDDEN * INNER + 2 * HIDDEN) + 2 * WORDS * HIDDEN + HIDDEN
    assert lora["share_of_base"] == pytest.approx(n_params / n_base)


def test_what_is_neither_path_nor_method_is_refused(folder: Path) -> None:
    assert run("lroa_r4", "--model", folder).exit_code == 2
