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


def test_a_row_longer_than_the_model_takes_is_refused(tmp_path: Path) -> None:
    config = transformers.LlamaConfig(num_hidden_layers=1, architectures=["LlamaForCausalLM"])
    config.save_pretrained(tmp_path)
    with pytest.raises(SpecError, match="2,048"):
        estimate_step("lora_r4", run_spec(tmp_path, max_length=10**6))


def test_layers_whose_kinds_follow_from_their_number_can_be_left_out(tmp_path: Path) -> None:
    config = transformers.MambaConfig(num_hidden_layers=6, architectures=["MambaForCausalLM"])
    config.save_pretrained(tmp_path)
    base = load_skeleton(ModelSpec(id=str(tmp_path)), auto_class=None, n_layers=3)
    assert len(base.module.get_submodule("backbone.layers")) == 3


def test_experts_that_cannot_be_replayed_leave_the_memory_of_weights_and_optimizer(tmp_path: Path) -> None:
    """NLLB-MoE picks experts by names that have a number of the router in them."""
    sizes = {"d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "vocab_size": 50, "num_experts": 4}
    sizes |= {"encoder_sparse_step": 1}
    config = transformers.NllbMoeConfig(**sizes, architectures=["NllbMoeForConditionalGeneration"])
    config.save_pretrained(tmp_path)
    with pytest.raises(SpecError, match="without weights"):
        estimate_step("lora_r4", run_spec(tmp_path))
    answer = estimate_step("lora_r4", run_spec(tmp_path), accumulates=True).answer
    memory, count = answer.step.memory, answer.described.count
    assert count is not None and memory.trained == 4 * 4 * count.trainable_params
    assert memory.weights == 2 * answer.described.base_params
    assert (memory.activations, answer.typical.seconds, len(answer.described.notes)) == (0, None, 1)
