"""What is trained on which model is described from the config: notes, layers, classes."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers
from toys.specs import run_spec

from autopeft.commands import estimate_step
from autopeft.errors import SpecError
from autopeft.model import load_skeleton
from autopeft.types import ModelSpec


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("llama")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 6, "num_attention_heads": 2}
    config = transformers.LlamaConfig(**sizes, vocab_size=50, architectures=["LlamaForCausalLM"])
    config.save_pretrained(folder)
    return folder


def test_a_row_longer_than_the_model_takes_is_refused(llama: Path) -> None:
    with pytest.raises(SpecError, match="2,048"):
        estimate_step("lora_r4", run_spec(llama, max_length=10**6))


def test_layers_whose_kinds_follow_from_their_number_can_be_left_out(tmp_path: Path) -> None:
    config = transformers.MambaConfig(
        hidden_size=16, num_hidden_layers=6, state_size=4, vocab_size=50, architectures=["MambaForCausalLM"]
    )
    config.save_pretrained(tmp_path)
    base = load_skeleton(ModelSpec(id=str(tmp_path)), auto_class=None, n_layers=3)
    assert len(base.module.get_submodule("backbone.layers")) == 3
