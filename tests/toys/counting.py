"""A tiny Llama's config and adapter configs in folders, for the tests of `count`."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import transformers

SHORT = {"target_modules": ["q_proj", "v_proj"]}
LORA = {"peft_type": "LORA", "r": 4, **SHORT}


def tiny_config():
    return transformers.LlamaConfig(
        num_hidden_layers=2,
        hidden_size=32,
        intermediate_size=64,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=50,
        tie_word_embeddings=True,
        pad_token_id=0,
        architectures=["LlamaForCausalLM"],
    )


def write_config(folder: Path, content: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "adapter_config.json").write_text(text, encoding="utf-8")
    return folder


def tensor_bytes(folder: Path) -> int:
    """What all files of tensors in a folder hold beyond their headers."""
    total = 0
    for file in folder.rglob("*.safetensors"):
        content = file.read_bytes()
        (header,) = struct.unpack("<Q", content[:8])
        total += len(content) - 8 - header
    return total


def n_trained(module) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
