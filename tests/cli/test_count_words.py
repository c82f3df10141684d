"""`count` with a word instead of a path: a method at all of its target modules, against a closed form."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import transformers
from typer.testing import CliRunner

from autopeft.cli.app import app

HIDDEN, INNER, N_LAYERS, WORDS = 32, 64, 5, 2000


def test_a_method_is_counted_where_no_such_path_exists(tmp_path: Path) -> None:
    transformers.LlamaConfig(
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=2,
        vocab_size=WORDS,
        architectures=["LlamaForCausalLM"],
    ).save_pretrained(tmp_path)
    done = CliRunner().invoke(app, ["count", "lora_r4", "--model", str(tmp_path), "--json"])
    lora = json.loads(done.stdout)
    n_params = N_LAYERS * 4 * (4 * 2 * HIDDEN + 3 * (HIDDEN + INNER))
    assert lora["trainable_params"] == n_params
    assert lora["ranks"]["q"] == [4, 4]
    n_base = N_LAYERS * (4 * HIDDEN**2 + 3 * HIDDEN * INNER + 2 * HIDDEN) + 2 * WORDS * HIDDEN + HIDDEN
    assert lora["share_of_base"] == pytest.approx(n_params / n_base)
