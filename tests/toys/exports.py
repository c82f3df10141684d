"""Trained toys, the command `export`, and readers of LoRA that follow the servers' rules without `peft`."""

from __future__ import annotations

import copy
import json
import re
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from autopeft.adapters import compile_plan
from autopeft.exports import read_weights
from autopeft.model import save_weights
from autopeft.plugins import ExportSource, TrainingFacts, discover
from toys.bases import PEFT_TASKS
from toys.commands import run

METHODS = discover("autopeft.methods")
TOKENS = torch.tensor([[5, 9, 14, 20, 7, 11], [6, 4, 25, 30, 8, 13]])  # none of them pads
LAYER = re.compile(r"^(.*?)\.(\d+)\.(.*)$")


def export(*arguments):
    return run("export", *arguments)


def answer(*arguments):
    result = export(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@dataclass(frozen=True)
class Trained:
    """A trained plan, what it gives for TOKENS, and its base model as it was."""

    source: ExportSource
    logits: torch.Tensor
    raw: nn.Module
    folder: Any


def task_of(base):
    return PEFT_TASKS.get(base.name.removeprefix("toy "), "SEQ_CLS")


def trained(base, plan, folder, *, seed=0):
    """Every trained number moved at random, the head's too; saved as a search saves it."""
    raw, stack = copy.deepcopy(base.module), compile_plan(plan, METHODS)
    names = stack.names
    with base.attached(stack.configs, plan=plan, task_type=task_of(base), seed=seed) as model:
        shake(model, seed=seed)
        logits = logits_of(model)
        save_weights(model, names, folder)
    folders = [folder / name for name in names] if len(names) > 1 else [folder]
    source = ExportSource(
        configs=stack.configs,
        base_model="toy/model",
        task_type=task_of(base),
        head=base.head_names,
        weights=tuple(map(read_weights, folders)),
        base=copy.deepcopy(raw),
        tokenizer=base.tokenizer,
        training=TrainingFacts(learning_rate=1e-3),
    )
    return Trained(source=source, logits=logits, raw=raw, folder=folder)


@torch.no_grad()
def shake(model, *, seed=0, size=0.1):
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))


@torch.no_grad()
def logits_of(model):
    model.eval()
    more = {"decoder_input_ids": TOKENS} if base_of(model).config.is_encoder_decoder else {}
    return model(input_ids=TOKENS, **more).logits


def base_of(model):
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def read_config(folder):
    return json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))


def halves(folder):
    """Target module -> A and B, from the tensors' names."""
    by_target = defaultdict(dict)
    for key, tensor in load_file(folder / "adapter_model.safetensors").items():
        match = re.fullmatch(r"base_model\.model\.(.+)\.lora_([AB])\.weight", key)
        if match:
            by_target[match[1]][match[2]] = tensor
    return {target: (pair["A"], pair["B"]) for target, pair in by_target.items()}


def vllm(folder):
    """The scale is alpha / r of the config's top, by rsLoRA alpha / sqrt(r); patterns are unknown to it."""
    config = read_config(folder)
    root = 0.5 if config["use_rslora"] else 1.0
    return {
        target: (a, b, config["lora_alpha"] / config["r"] ** root)
        for target, (a, b) in halves(folder).items()
    }


def llama_cpp(folder):
    """The scale is alpha of the config's top over the tensor's own rank."""
    config = read_config(folder)
    return {target: (a, b, config["lora_alpha"] / a.shape[0]) for target, (a, b) in halves(folder).items()}


def served(raw, folder, reader):
    """What a server computes: the base model with the written head, each target moved by its rule."""
    module = copy.deepcopy(raw)
    head = folder / "head.safetensors"
    if head.is_file():
        _, unexpected = module.load_state_dict(load_file(head), strict=False)
        assert not unexpected
    for target, (a, b, scale) in reader(folder).items():
        layer = module.get_submodule(target)
        change = scale * (b @ a)
        layer.weight.data += change if isinstance(layer, nn.Linear) else change.T
    return logits_of(module)
