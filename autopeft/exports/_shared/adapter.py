"""Reads and writes the files of an adapter, and finds its tensors by the base model's names."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from peft import PeftConfig, PeftModel
from safetensors.torch import load_file, save_file
from torch import nn

from autopeft.adapters import ConfigFile, type_name
from autopeft.errors import SpecError, reason_of
from autopeft.model import adapter_names, for_task, merge
from autopeft.model.attaching import WEIGHTS, read_weights
from autopeft.plugins import ExportSource
from autopeft.store import fresh_folder

PREFIX = "base_model.model."  # what `peft` puts before the base model's own names
MERGE_ERRORS = (NotImplementedError, ValueError, TypeError, AttributeError, RuntimeError)  # of `peft`


def write_adapter(source: ExportSource, out: Path) -> tuple[str, ...]:
    """Write the configs of a plan, and its weights if it is trained; return notes for the user.

    One config is written to the folder itself, several to a folder each, in the order of `order.json`.
    """
    configs = configs_of(source)
    names = adapter_names(configs)
    with fresh_folder(out) as fresh:
        for index, (config, name) in enumerate(zip(configs, names, strict=True)):
            folder = fresh / name if len(names) > 1 else fresh
            config.base_model_name_or_path, config.revision = source.base_model, source.checkpoint.revision
            config.save_pretrained(str(folder))  # makes the folder
            if source.weights:
                save_tensors(source.weights[index], folder / WEIGHTS)
        if len(names) > 1:
            (fresh / "order.json").write_text(json.dumps(names) + "\n", encoding="utf-8")
    notes = [] if len(names) == 1 else ["attach the folders in the order of order.json"]
    modules = {type_name(config): type(config).__module__ for config in configs}
    foreign = {name: module for name, module in modules.items() if not module.startswith("peft.")}
    notes += [f"peft knows {name} after: import {module}" for name, module in foreign.items()]
    untrained = "it has no weights: the plan is not trained, or they were deleted"
    return (*notes, *([] if source.weights else [untrained]))


def read_all_weights(files: Sequence[ConfigFile]) -> tuple[dict[str, torch.Tensor], ...]:
    """Read the tensors of each config by name; () if no config has any."""
    weights = [read_weights(file.folder) for file in files]
    found = tuple(tensors for tensors in weights if tensors is not None)
    if found and len(found) < len(files):
        raise SpecError(f"{files[weights.index(None)].folder} has no {WEIGHTS}, but other folders have.")
    return found


def configs_of(source: ExportSource) -> list[PeftConfig]:
    """Copy the configs and add task and head; if the head alone is trained, make a config for it."""
    return for_task(source.configs, source.base, task_type=source.task_type, head_names=source.head)


def in_head(key: str, head: Sequence[str]) -> bool:
    """Whether a tensor belongs to a module of the head, by the end of the module's name as `peft` does."""
    return ".lora_" not in key and any(f".{name}." in f".{key.removeprefix(PREFIX)}" for name in head)


def trained_tensors(source: ExportSource) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors of all configs, by the base model's names."""
    for weights in source.weights:
        for key, tensor in weights.items():
            yield key.removeprefix(PREFIX), tensor


def missing_weights(names: Collection[str], source: ExportSource) -> list[str]:
    """Sort the parameters of the base model in `names` that the trained adapter has no tensor for."""
    return sorted(set(names) - {name for name, _ in trained_tensors(source)})


def n_trained_labels(source: ExportSource, module: nn.Module) -> int | None:
    """Count the labels of the adapter's head if its size differs from the base model's; else None."""
    shapes = {name: parameter.shape for name, parameter in module.named_parameters()}
    odd = (t for name, t in trained_tensors(source) if shapes.get(name, t.shape) != t.shape)
    return next((int(tensor.shape[0]) for tensor in odd), None)


def save_tensors(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write contiguous copies of tensors, which share no memory, by safetensors; it refuses any other."""
    copies = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    save_file(copies, path, metadata={"format": "pt"})


def load_in_peft(module: nn.Module, files: Sequence[ConfigFile]) -> nn.Module:
    """Load an adapter with plain `peft`.

    Of several configs, each is merged into `module` before the next one is loaded. A trained head is next to
    the first. Raises SpecError for a folder without weights, or if `peft` refuses the adapter.
    """
    model = module
    if (head := files[0].folder / "head.safetensors").is_file():
        module.load_state_dict(load_file(head), strict=False)
    for file in files:
        if read_weights(file.folder) is None:
            raise SpecError(f"{file.folder} has no weights to load; export a trained plan.")
        try:
            device = str(next(model.parameters()).device)  # without it peft puts the tensors on a GPU
            adapted = PeftModel.from_pretrained(
                model, str(file.folder), low_cpu_mem_usage=False, torch_device=device
            )
            model = merge(adapted) if len(files) > 1 else adapted
        except (*MERGE_ERRORS, KeyError) as error:
            raise SpecError(
                f"peft cannot load {file.folder} ({reason_of(error)}); export it again, or name its base "
                "model."
            ) from error
    return model
