"""Adapters of tiny models on disk, as `peft` writes them, and ways to damage them."""

from __future__ import annotations

import json
import warnings

import peft
import torch
from safetensors.torch import load_file, save_file

from toys.exports import shake
from toys.topologies import build

PREFIX = "base_model.model."
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
MLP = ["gate_proj", "up_proj", "down_proj"]


def write_adapter(
    folder,
    base,
    targets,
    *,
    module=None,
    edit=None,
    config=None,
    weights=True,
    task_type="CAUSAL_LM",
    **settings,
):
    """Train nothing, but move every number: LoRA of rank 4 on the toy `base`, whose config is written too.

    `edit` changes the dictionary of tensors, and `config` the entries of adapter_config.json.
    """
    whole = build(base)
    whole.config.architectures = [type(whole).__name__]
    whole.config.save_pretrained(folder / "base")
    settings = {"r": 4, "lora_alpha": 8, "task_type": task_type, **settings}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lora = peft.LoraConfig(target_modules=targets, **settings)
        model = peft.get_peft_model(build(base, device="cpu") if module is None else module, lora)
        shake(model)
        model.peft_config["default"].base_model_name_or_path = str(folder / "base")
        model.save_pretrained(folder / "adapter")
    path = folder / "adapter" / "adapter_model.safetensors"
    if edit is not None:
        save_file(edit(load_file(path)), path, {"format": "pt"})
    if not weights:
        path.unlink()
    if config is not None:
        path = folder / "adapter" / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return folder / "adapter"


def renamed(old, new):
    """A function that replaces a part of all names."""
    return lambda tensors: {key.replace(old, new, 1): tensor for key, tensor in tensors.items()}


def scaled(factor, *words):
    """A function that multiplies the tensors whose names have all words."""
    return lambda tensors: {
        key: tensor * factor if all(word in key for word in words) else tensor
        for key, tensor in tensors.items()
    }


def emptied(word):
    """A function that empties the tensors whose names have a word, as ZeRO-3 leaves them."""
    return lambda tensors: {key: torch.zeros(0) if word in key else t for key, t in tensors.items()}
