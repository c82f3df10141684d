"""Checkpoints that are quantized already, and experts that bitsandbytes leaves as they are."""

from __future__ import annotations

import pytest
import torch
import transformers

from autopeft.errors import ModelError, SpecError
from autopeft.estimate import Setup, by_name, describe
from autopeft.plugins import discover
from autopeft.types import ModelSpec

METHODS, TASKS = discover("autopeft.methods"), discover("autopeft.tasks")
SHAPE = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 6, "num_attention_heads": 4}
SHAPE |= {"vocab_size": 400, "max_position_embeddings": 64, "tie_word_embeddings": False}
IN_LAYER = {"self_attn": 4 * 64**2, "mlp": 3 * 64 * 128}
N_LAYERS, N_LINEAR = 6, 6 * sum(IN_LAYER.values())
N_PLAIN = 2 * 400 * 64 + (2 * N_LAYERS + 1) * 64  # embeddings, output layer and norms
BITSANDBYTES = {"quant_method": "bitsandbytes", "bnb_4bit_quant_type": "nf4"}
EXPERTS = {"num_local_experts": 8, "num_key_value_heads": 4}
GROUPS = {"bits": 4, "group_size": 128}


def described(folder, stored, *, word="lora_r4", quantize="none", kind=transformers.LlamaConfig, **shape):
    """A word on a model whose config says how its checkpoint is quantized."""
    config = kind(**(SHAPE | shape), architectures=[kind.__name__.replace("Config", "ForCausalLM")])
    if stored is not None:
        config.quantization_config = stored
    config.save_pretrained(folder)
    setup = Setup(model=ModelSpec(id=str(folder), quantize=quantize), dtype=torch.bfloat16)
    return describe(by_name(word, METHODS), setup, methods=METHODS, tasks=TASKS)


def frozen_bytes(found):
    """The bytes of what is replayed with all layers, adapters apart."""
    parameters = found.traced.build(None).parameters()
    return sum(p.numel() * p.element_size() for p in parameters if not p.requires_grad)


@pytest.mark.parametrize(
    ("stored", "bytes_per_weight"),
    [
        # One scale in 64 weights, a byte of it and a float32 for 256 of them, or a float32 each.
        (
            BITSANDBYTES | {"load_in_4bit": True, "bnb_4bit_use_double_quant": True},
            1 / 2 + (1 + 4 / 256) / 64,
        ),
        (BITSANDBYTES | {"load_in_4bit": True, "bnb_4bit_use_double_quant": False}, 1 / 2 + 4 / 64),
        (BITSANDBYTES | {"load_in_8bit": True}, 1),
        (GROUPS | {"quant_method": "gptq"}, 1 / 2 + (2 + 1 / 2) / 128),
        (GROUPS | {"quant_method": "awq"}, 1 / 2 + (2 + 1 / 2) / 128),
        (GROUPS | {"quant_method": "gptq", "bits": 8, "group_size": -1}, 1),
        ({"quant_method": "fbgemm_fp8"}, 2),
        ({"quant_method": "mxfp4"}, 2),
        (None, 2),
    ],
)
def test_weights_of_linear_layers_take_the_bytes_of_the_checkpoint_and_the_others_two(
    stored, bytes_per_weight, tmp_path
):
    found = described(tmp_path, stored)
    assert frozen_bytes(found) == pytest.approx(2 * N_PLAIN + bytes_per_weight * N_LINEAR, rel=1e-3)
    assert found.base_params == N_PLAIN + N_LINEAR
    assert len(found.notes) == (stored is not None)


def test_layers_that_a_checkpoint_left_plain_take_two_bytes(tmp_path):
    skipped = ["lm_head", "model.layers.1.mlp", "model.layers.4.mlp.down_proj"]
    stored = BITSANDBYTES | {"load_in_8bit": True, "llm_int8_skip_modules": skipped}
    found = described(tmp_path, stored)
    n_kept = IN_LAYER["mlp"] * (1 + 1 / 3)
    assert frozen_bytes(found) == pytest.approx(2 * N_PLAIN + N_LINEAR + n_kept, rel=1e-3)


def test_quantized_checkpoint_is_not_quantized_again_nor_trained_whole(tmp_path):
    stored = GROUPS | {"quant_method": "awq"}
    with pytest.raises(ModelError, match="already"):
        described(tmp_path, stored, quantize="4bit")
    with pytest.raises(SpecError, match="Full"):
        described(tmp_path, stored, word="full")
    assert described(tmp_path, {"quant_method": "mxfp4"}, word="full").count is None  # is dequantized


def test_quantization_is_proposed_only_where_they_save_memory(tmp_path):
    assert described(tmp_path, None).can_be_quantized
    assert not described(tmp_path, None, kind=transformers.MixtralConfig, **EXPERTS).can_be_quantized
    assert not described(tmp_path, None, word="full").can_be_quantized
    assert not described(tmp_path, {"quant_method": "fp8"}).can_be_quantized


def test_experts_that_stay_plain_are_noted(tmp_path):
    experts = {"kind": transformers.MixtralConfig, **EXPERTS}
    found = described(tmp_path, None, quantize="4bit", **experts)
    n_left = N_LAYERS * 8 * IN_LAYER["mlp"]
    n_all = n_left + N_LAYERS * (IN_LAYER["self_attn"] + 8 * 64) + N_PLAIN
    assert [f"{n_left:,} of {n_all:,}" in note for note in found.notes] == [True]
