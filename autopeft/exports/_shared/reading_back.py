"""Loads an adapter's folder as its readers do: plain `peft`, and LoRA by the rules of vLLM and llama.cpp.

A server knows nothing of patterns: it takes one scale from the top of the config for all modules. vLLM
divides alpha by the config's r (vllm/lora/peft_helper.py), by its root for rsLoRA; llama.cpp divides it by
the rank of each tensor (src/llama-adapter.h).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from autopeft.adapters import ConfigFile, is_unmergeable
from autopeft.adapters.configs import changed_fields
from autopeft.errors import SpecError, reason_of
from autopeft.exports._shared.adapter import PREFIX, in_head
from autopeft.exports._shared.merging import MERGE_ERRORS
from autopeft.exports._shared.uniform import lora_halves
from autopeft.exports._shared.weights import read_weights
from autopeft.model import merge
from autopeft.model.linear_layers import linear_shape

PEFT = "peft"
_SERVERS: Mapping[str, Callable[[LoraConfig, int], float]] = {
    "vllm": lambda config, rank: config.lora_alpha / (math.sqrt(config.r) if config.use_rslora else config.r),
    "llama.cpp": lambda config, rank: config.lora_alpha / rank,
}
READERS = (PEFT, *_SERVERS)
# Fields of LoRA that leave the update B A with one scale.
_PLAIN = {"r", "lora_alpha", "target_modules", "fan_in_fan_out", "lora_dropout", "exclude_modules"}
_PLAIN |= {"layers_to_transform", "layers_pattern", "init_lora_weights"}


def readers_of(configs: Sequence[PeftConfig]) -> tuple[str, ...]:
    """Name the readers that read an adapter right: `peft`, and servers if it is plain LoRA of one scale."""
    if len(configs) != 1 or not isinstance(configs[0], LoraConfig):
        return (PEFT,)
    fields = changed_fields(configs[0]).keys() - _PLAIN
    servers = READERS[1:] if not fields else ("vllm",) if fields == {"use_rslora"} else ()
    return (PEFT, *servers)


def load_in_peft(module: nn.Module, files: Sequence[ConfigFile]) -> tuple[nn.Module, tuple[str, ...]]:
    """Load an adapter with plain `peft`; return the model, and phrases on missing and ignored tensors.

    Several configs are loaded one at a time. A config that changes weights is merged before the next one is
    loaded; configs that cannot be merged come last. A trained head lies beside the first. The base model, in
    float32, is changed in place.

    Raises:
        SpecError: A folder has no weights that can be read, or `peft` refuses or cannot merge the adapter.
    """
    faults: list[str] = []
    model = module
    _put_head(module, files[0].folder)
    for file in sorted(files, key=lambda file: is_unmergeable(file.config)):
        tensors = _weights_of(file)
        try:
            device = str(next(model.parameters()).device)  # without it peft puts the tensors on a GPU
            adapted = PeftModel.from_pretrained(
                model, str(file.folder), low_cpu_mem_usage=False, torch_device=device
            )
        except (*MERGE_ERRORS, KeyError) as error:
            raise SpecError(
                f"peft cannot load {file.folder} ({reason_of(error)}); export it again, or name its base "
                "model."
            ) from error
        expected = get_peft_model_state_dict(adapted, save_embedding_layers=False)
        missing, unread = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
        if missing:
            faults.append(
                f"{file.folder} lacks {len(missing)} tensors that peft expects, such as {missing[0]}"
            )
        if unread:
            faults.append(f"{file.folder} holds {len(unread)} tensors that peft ignores, such as {unread[0]}")
        model = adapted
        if len(files) > 1 and not is_unmergeable(file.config):
            try:
                model = merge(adapted)
            except MERGE_ERRORS as error:
                raise SpecError(
                    f"The adapter in {file.folder} cannot be merged for the next one ({reason_of(error)}); "
                    "verify each adapter's folder alone."
                ) from error
    return model, tuple(faults)


def load_as_served(module: nn.Module, file: ConfigFile, *, reader: str) -> nn.Module:
    """Add a LoRA to the base model's weights, with the scale that vLLM or llama.cpp takes from its config.

    The base model, in float32 and not quantized, is changed in place, its head too, and returned.

    Raises:
        SpecError: The weights are no LoRA on linear layers of this model.
    """
    if not isinstance(file.config, LoraConfig):
        raise SpecError(f"{reader} reads LoRA alone, and {file.folder} is none; leave --reader out.")
    tensors, saved = _weights_of(file), tuple(file.config.modules_to_save or ())
    _put_head(module, file.folder)
    whole = {key.removeprefix(PREFIX): tensor for key, tensor in tensors.items() if in_head(key, saved)}
    module.load_state_dict(whole, strict=False)
    modules = dict(module.named_modules())
    for target, (down, up) in lora_halves(tensors, head=saved).items():
        layer = cast(Any, modules.get(target))
        shape = None if layer is None else linear_shape(layer)
        if shape is None:
            raise SpecError(
                f"{target} of {file.folder} is no linear layer of the base model; name the right one."
            )
        if (down.shape[1], up.shape[0]) != shape[1:] or down.shape[0] != up.shape[1]:
            raise SpecError(
                f"{file.folder} has {tuple(up.shape)} times {tuple(down.shape)} for {target}, which maps "
                f"{shape[1]} to {shape[2]}; export it again."
            )
        change = (_SERVERS[reader](file.config, down.shape[0]) * (up @ down)).to(layer.weight.device)
        layer.weight.data += change.T if isinstance(layer, Conv1D) else change
    return module


def _put_head(module: nn.Module, folder: Path) -> None:
    head = folder / "head.safetensors"
    if head.is_file():
        module.load_state_dict(load_file(head), strict=False)


def _weights_of(file: ConfigFile) -> dict[str, torch.Tensor]:
    tensors = read_weights(file.folder)
    if tensors is None:
        raise SpecError(f"{file.folder} has no weights to verify; export a trained plan.")
    return tensors
