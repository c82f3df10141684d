"""LoRA as every reader understands it: one rank, a scale of 1, plain names, all layers of a type.

Readers take the scale from the top of the config: vLLM and TGI as alpha / r, llama.cpp as alpha over the
tensor's own rank; none of them reads the patterns. TGI drops a type of map, such as q_proj, whole if one
layer has no adapter there. So the scale goes into B, and ranks and such layers are filled with zeros.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch
from peft import LoraConfig
from peft.utils.other import get_pattern_key
from torch import nn
from transformers.pytorch_utils import Conv1D

from autopeft.errors import SpecError
from autopeft.exports._shared.adapter import PREFIX, in_head, save_tensors, trained_tensors
from autopeft.model.attaching import plain_names
from autopeft.model.linear_layers import linear_shape
from autopeft.plugins import ExportSource

Factors = dict[
    str, tuple[torch.Tensor, torch.Tensor]
]  # target module -> A (R, in) and B (out, R), scale within B

_KEY = re.compile(rf"^{re.escape(PREFIX)}(.+)\.lora_(A|B)\.weight$")
_LAYER = re.compile(r"^(.*?\.)(\d+)(\..*)$")  # what stands before, as and after the layer's number
# What --max-lora-rank takes (vllm/config/lora.py).
_VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


def lora_factors(source: ExportSource) -> Factors:
    """Compute A and B of every target of LoRA configs; if two configs adapt a target, their ranks are joined.

    Raises SpecError if there is no target module, or a tensor is missing, is no part of LoRA or has another
    rank than its config says.
    """
    factors: Factors = {}
    for config, weights in zip(source.configs, source.weights, strict=True):
        for target, pair in _pairs(weights, head=source.head).items():
            rank = config.rank_pattern.get(get_pattern_key(config.rank_pattern.keys(), target), config.r)
            alpha_key = get_pattern_key(config.alpha_pattern.keys(), target)
            alpha = config.alpha_pattern.get(alpha_key, config.lora_alpha)
            if set(pair) != {"A", "B"} or pair["A"].shape[0] != rank or pair["B"].shape[1] != rank:
                seen = {half: tuple(tensor.shape) for half, tensor in sorted(pair.items())}
                raise SpecError(
                    f"The weights at {target} are {seen}, the config says rank {rank}; "
                    "use those of one adapter."
                )
            down, up = pair["A"], pair["B"] * (alpha / (math.sqrt(rank) if config.use_rslora else rank))
            if target in factors:
                down, up = torch.cat([factors[target][0], down]), torch.cat([factors[target][1], up], dim=1)
            factors[target] = (down, up)
    if not factors:
        raise SpecError("The weights hold no part of LoRA on a linear layer; use those of a trained adapter.")
    return factors


def lora_halves(weights: Mapping[str, torch.Tensor], *, head: Sequence[str]) -> Factors:
    """Return A and B of every target module as they are stored, without the scale.

    `head` names the modules that are trained whole. Raises SpecError if a tensor is missing or is no part of
    LoRA.
    """
    pairs = _pairs(weights, head=head)
    lone = [target for target, pair in pairs.items() if set(pair) != {"A", "B"}]
    if lone:
        raise SpecError(f"The weights at {lone[0]} lack one half of LoRA; use those of one adapter.")
    return {target: (pair["A"], pair["B"]) for target, pair in pairs.items()}


def _pairs(weights: Mapping[str, torch.Tensor], *, head: Sequence[str]) -> dict[str, dict[str, torch.Tensor]]:
    """Map each target to its tensors A and B in float32; one may be missing. SpecError for other tensors."""
    halves: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in weights.items():
        match = _KEY.match(key)
        if match:
            halves.setdefault(match[1], {})[match[2]] = tensor.detach().cpu().float()
        elif not in_head(key, head):
            raise SpecError(
                f"The weights hold {key!r}, which is no part of LoRA on a linear layer; use --to merged."
            )
    return halves


def write_uniform(factors: Factors, source: ExportSource, folder: Path) -> tuple[str, ...]:
    """Write target modules' factors as one LoRA adapter of one rank; return notes for the user."""
    assert source.base is not None, "the shapes of the base model are needed"
    modules = dict(source.base.named_modules())
    _check_targets(factors, modules)
    filled = _with_zeros(factors, modules)
    rank = max(down.shape[0] for down, _ in filled.values())
    tensors, served = {}, source.checkpoint.skeleton  # the class that servers load; None if it is ours
    if served is not None:
        names = served_names(source.base, served, targets=filled)
        filled, modules = (
            {names[target]: pair for target, pair in filled.items()},
            dict(served.named_modules()),
        )
    for target, (down, up) in sorted(filled.items()):
        extra = rank - down.shape[0]
        tensors[f"{PREFIX}{target}.lora_A.weight"] = nn.functional.pad(down, (0, 0, 0, extra))
        tensors[f"{PREFIX}{target}.lora_B.weight"] = nn.functional.pad(up, (0, extra))
    save_tensors(tensors, folder / "adapter_model.safetensors")
    head = {name: tensor for name, tensor in trained_tensors(source) if in_head(name, source.head)}
    config = LoraConfig(
        r=rank,
        lora_alpha=rank,
        lora_dropout=0.0,
        fan_in_fan_out=any(isinstance(modules[target], Conv1D) for target in filled),
        # With the task's type `peft` would look for the head in this adapter.
        task_type=None if head or served is not None else source.task_type,
        # Names the class to build, to which the modules' names belong; `peft` writes it in the same way.
        auto_mapping=None
        if served is None
        else {"base_model_class": type(served).__name__, "parent_library": type(served).__module__},
        base_model_name_or_path=source.base_model,
        revision=source.checkpoint.revision,
        inference_mode=True,
    )
    config.target_modules = plain_names(filled, modules)  # `peft` would turn an argument into a set
    config.save_pretrained(str(folder))
    notes = [f"the rank is {rank}"]
    if source.task_type in ("CAUSAL_LM", None) and not head:  # for other models servers take --to merged
        limit = next((limit for limit in _VLLM_RANKS if limit >= rank), None)
        advice = f"start vLLM with --enable-lora --max-lora-rank {limit}"
        notes = [f"the rank is {rank}; {advice if limit else f'vLLM takes at most {_VLLM_RANKS[-1]}'}"]
    if len(filled) > len(factors):
        notes.append(
            f"zeros stand at {len(filled) - len(factors)} target modules whose layers have no adapter"
        )
    if served is not None:
        notes.append(f"the names of its modules are those of {type(served).__name__}, which servers load")
    if head:
        save_tensors(head, folder / "head.safetensors")
        notes.append(
            "the trained head is in head.safetensors, by the base model's names; servers read LoRA alone, so "
            "export with --to merged for them"
        )
    return tuple(notes)


def served_names(module: nn.Module, served: nn.Module, *, targets: Collection[str]) -> dict[str, str]:
    """Map targets of a text model to their names in the checkpoint's own class, which contains that model.

    Raises:
        SpecError: The own class has no such part, or several.
    """
    prefix = f"{getattr(module, 'base_model_prefix', 'model')}."
    theirs = {name for name, _ in served.named_modules()}
    beneath = [name.removeprefix(prefix) for name, _ in module.named_modules() if name.startswith(prefix)]
    places = [place for place in theirs if all(f"{place}.{name}" in theirs for name in beneath)]
    lacking = [target for target in targets if not target.startswith(prefix) and target not in theirs]
    if len(places) != 1 or lacking:
        raise SpecError(
            f"The checkpoint's own class {type(served).__name__}, which servers load, has no module for "
            f"{next(iter(lacking or targets))}; use --to merged."
        )
    return {s: f"{places[0]}.{s.removeprefix(prefix)}" if s.startswith(prefix) else s for s in targets}


def _check_targets(factors: Factors, modules: Mapping[str, nn.Module]) -> None:
    for target, (down, up) in factors.items():
        shape = linear_shape(modules[target]) if target in modules else None
        if shape is None:
            kind = type(modules[target]).__name__ if target in modules else "absent"
            raise SpecError(
                f"{target} is {kind} in the base model and no linear layer; pass --model with the right one, "
                "or use --to merged."
            )
        _, n_in, n_out = shape
        if (down.shape[1], up.shape[0]) != (n_in, n_out):
            raise SpecError(
                f"The adapter at {target} maps {down.shape[1]} to {up.shape[0]}, the base model {n_in} to "
                f"{n_out}; pass --model with the one that it was trained on."
            )


def _with_zeros(factors: Factors, modules: Mapping[str, nn.Module]) -> Factors:
    """Add zeros at the same map of every layer that has no factors."""
    types = {(match[1], match[3]) for match in map(_LAYER.match, factors) if match}
    filled = dict(factors)
    for name, module in modules.items():
        match, shape = _LAYER.match(name), linear_shape(module)
        if match and shape and (match[1], match[3]) in types and name not in factors:
            _, n_in, n_out = shape
            filled[name] = (torch.zeros(1, n_in), torch.zeros(n_out, 1))
    return filled
