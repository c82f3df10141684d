"""An adapter's configs, ready to be written, and its tensors by their names."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from peft import PeftConfig
from torch import nn

from autopeft.extension import ExportSource
from autopeft.model import for_task

PREFIX = "base_model.model."  # what `peft` puts before the base model's own names


def configs_of(source: ExportSource) -> list[PeftConfig]:
    """Copies of the configs to write or attach, with task and head; at least one, for the head alone."""
    return for_task(source.configs, source.base, task_type=source.task_type, head_names=source.head)


def base_name(key: str) -> str:
    """What a tensor of an adapter's file is called in the base model."""
    return key.removeprefix(PREFIX)


def in_head(key: str, head: Sequence[str]) -> bool:
    """Whether a name lies within a module of the head; `peft` matches those by their endings."""
    return ".lora_" not in key and any(f".{name}." in f".{base_name(key)}" for name in head)


def head_tensors(source: ExportSource) -> dict[str, torch.Tensor]:
    """The trained head by the base model's names."""
    return {
        base_name(key): tensor
        for weights in source.weights
        for key, tensor in weights.items()
        if in_head(key, source.head)
    }


def lacking_weights(names: Collection[str], source: ExportSource) -> list[str]:
    """Those of some parameters of the base model that the adapter has no weights for, sorted."""
    held = {base_name(key) for weights in source.weights for key in weights}
    return sorted(name for name in names if name not in held)


def n_trained_labels(source: ExportSource, module: nn.Module) -> int | None:
    """How many labels the adapter's head has, where its size is not the base model's; else None."""
    shapes = {name: parameter.shape for name, parameter in module.named_parameters()}
    for weights in source.weights:
        for key, tensor in weights.items():
            if shapes.get(base_name(key), tensor.shape) != tensor.shape:
                return int(tensor.shape[0])
    return None


def contiguous(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copies that safetensors takes: on the CPU, laid out whole, none sharing memory."""
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
