"""Uniform LoRA: one rank, a scale of 1 and plain names, which every server reads right.

Readers take the scale from the top of the config: vLLM before 0.32 as alpha / r, llama.cpp as alpha over the
tensor's own rank; SGLang refuses patterns. So the scale goes into B, and ranks are filled with zeros.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from peft.utils.other import get_pattern_key
from torch import nn
from transformers.pytorch_utils import Conv1D

from autopeft.errors import SpecError
from autopeft.exports._shared import problems
from autopeft.exports._shared.adapter import PREFIX, in_head, save_tensors, trained_tensors
from autopeft.exports._shared.servers import VLLM_RANKS
from autopeft.model.attaching import WEIGHTS, plain_names, rewrites_targets
from autopeft.model.linear_layers import linear_shape
from autopeft.plugins import ExportSource, NeededBase
from autopeft.store import fresh_folder
from autopeft.types import listed

# Target module -> A (R, in) and B (out, R), with the scale in B.
Factors = dict[str, tuple[torch.Tensor, torch.Tensor]]

# Fields that say where LoRA is and how it is scaled; the written tensors contain all of that.
_FOLDED = (
    "r lora_alpha rank_pattern alpha_pattern use_rslora target_modules exclude_modules layers_to_transform "
    "layers_pattern fan_in_fan_out lora_dropout modules_to_save".split()
)
_KEY = re.compile(rf"^{re.escape(PREFIX)}(.+)\.lora_(A|B)\.weight$")


@dataclass(frozen=True)
class UniformLora:
    """LoRA with the same update at every target module: scale in B, ranks padded with zeros, alpha = r."""

    name: str = "uniform-lora"
    summary: str = "one rank and alpha = r, exact; for vLLM, SGLang and llama.cpp"
    needs_base: NeededBase = "shapes"

    def problems(self, source: ExportSource) -> tuple[str, ...]:
        """List what the format cannot hold: other than plain LoRA, a trained head of a language model."""
        configs = source.configs
        faults = [*(problems.not_lora(configs) or problems.lora_problems(configs, fields=_FOLDED))]
        if source.task_type in ("CAUSAL_LM", "SEQ_2_SEQ_LM") and source.head:
            faults.append(f"servers ignore the trained modules {listed(source.head, 3)}")
        return (*faults, *problems.untrained(source))

    def export(self, source: ExportSource, out: Path) -> tuple[str, ...]:
        """Write one LoRA adapter, and a trained head next to it as head.safetensors; return notes."""
        instead = "Use --to merged"
        if problems.unmergeable(source.configs):
            instead = "Use --to native"
        elif problems.stacked_experts(source.configs):
            instead = problems.WITHOUT_EXPERTS
        problems.refuse(self.name, self.problems(source), instead=instead)
        factors = _factors(source)
        with fresh_folder(out) as fresh:
            return _write(factors, source, fresh)


PLUGIN = UniformLora()


def _factors(source: ExportSource) -> Factors:
    """Compute A and B of every target module; if two configs adapt one, their ranks are joined."""
    assert source.base is not None, "the shapes of the base model are needed"
    modules = dict(source.base.named_modules())
    factors: Factors = {}
    configs: tuple[Any, ...] = source.configs
    for config, weights in zip(configs, source.weights, strict=True):
        halves: dict[str, dict[str, torch.Tensor]] = {}
        for key, tensor in weights.items():
            match = _KEY.match(key)
            if match and match[1] in modules and linear_shape(modules[match[1]]):
                halves.setdefault(match[1], {})[match[2]] = tensor.detach().cpu().float()
            elif not in_head(key, source.head):
                raise SpecError(
                    f"The weights hold {key}, which is not LoRA of a linear layer; use --to merged."
                )
        by_weight = tuple(name.removesuffix(".weight") for name in config.target_parameters or ())
        for target, pair in halves.items():
            down, up = pair["A"], pair["B"]
            named = f"{target}.weight" if target.endswith(by_weight) else target
            rank, key = down.shape[0], get_pattern_key(config.alpha_pattern.keys(), named)
            alpha = config.alpha_pattern.get(key, config.lora_alpha)
            up = up * (alpha / (math.sqrt(rank) if config.use_rslora else rank))
            if target in factors:
                down, up = torch.cat([factors[target][0], down]), torch.cat([factors[target][1], up], dim=1)
            factors[target] = (down, up)
    return factors


def _write(factors: Factors, source: ExportSource, folder: Path) -> tuple[str, ...]:
    """Write the factors as one LoRA adapter of one rank; return notes for the user."""
    assert source.base is not None, "the shapes of the base model are needed"
    module = source.base
    notes = []
    served = source.checkpoint.skeleton  # of the class that servers load; None if it is ours
    if served is not None:
        names = _served_names(module, served, targets=factors)
        factors = {names[target]: pair for target, pair in factors.items()}
        module = served
        notes.append(f"its modules have the names of {type(served).__name__}, which servers load")
    head = {name: tensor for name, tensor in trained_tensors(source) if in_head(name, source.head)}
    if head:
        save_tensors(head, folder / "head.safetensors")
        notes.append("the trained head is in head.safetensors; servers need --to merged for it")
    rank = max(down.shape[0] for down, _ in factors.values())
    tensors = {}
    for target, (down, up) in sorted(factors.items()):
        extra = rank - down.shape[0]
        tensors[f"{PREFIX}{target}.lora_A.weight"] = nn.functional.pad(down, (0, 0, 0, extra))
        tensors[f"{PREFIX}{target}.lora_B.weight"] = nn.functional.pad(up, (0, extra))
    save_tensors(tensors, folder / WEIGHTS)
    # With the task's type `peft` would look for the head in this adapter.
    task_type = None if head or served is not None else source.task_type
    _config(factors, module, source, rank=rank, task_type=task_type).save_pretrained(str(folder))
    note = f"the rank is {rank}"
    if source.task_type in ("CAUSAL_LM", None) and not head:  # for other models servers take --to merged
        limit = next((limit for limit in VLLM_RANKS if limit >= rank), None)
        advice = f"start vLLM with --enable-lora --max-lora-rank {limit}"
        note += f"; {advice if limit else f'vLLM takes at most {VLLM_RANKS[-1]}'}"
    return (note, *notes)


def _config(
    targets: Collection[str], module: nn.Module, source: ExportSource, *, rank: int, task_type: str | None
) -> LoraConfig:
    """Make the config of the written adapter, for the class that servers load.

    It names the weights of layers whose names `peft` would take for those of experts.
    """
    modules = dict(module.named_modules())
    auto_mapping = None
    if task_type is None:  # the class to which the modules' names belong, as `peft` writes it
        auto_mapping = {"base_model_class": type(module).__name__, "parent_library": type(module).__module__}
    config = LoraConfig(
        r=rank,
        lora_alpha=rank,
        lora_dropout=0.0,
        fan_in_fan_out=any(isinstance(modules[target], Conv1D) for target in targets),
        task_type=task_type,
        auto_mapping=auto_mapping,
        base_model_name_or_path=source.base_model,
        revision=source.checkpoint.revision,
        inference_mode=True,
    )
    leaves = {name.rpartition(".")[2] for name in targets}
    of_experts = tuple(f".{leaf}" for leaf in leaves if rewrites_targets({leaf}, module))
    weights = {f"{name}.weight" for name in targets if name.endswith(of_experts)}
    layers = [name for name in targets if f"{name}.weight" not in weights]
    config.target_modules = plain_names(layers, modules)  # `peft` would turn an argument into a set
    config.target_parameters = plain_names(weights, dict(module.named_parameters())) or None
    return config


def _served_names(module: nn.Module, served: nn.Module, *, targets: Collection[str]) -> dict[str, str]:
    """Map targets of a text model to their names in the checkpoint's own class, which contains that model."""
    prefix = f"{getattr(module, 'base_model_prefix', 'model')}."
    theirs = {name for name, _ in served.named_modules()}
    beneath = [name.removeprefix(prefix) for name, _ in module.named_modules() if name.startswith(prefix)]
    places = [place for place in theirs if all(f"{place}.{name}" in theirs for name in beneath)]
    missing = [target for target in targets if not target.startswith(prefix) and target not in theirs]
    if len(places) != 1 or missing:
        raise SpecError(
            f"The checkpoint's own class {type(served).__name__}, which servers load, has no module for "
            f"{next(iter(missing or targets))}; use --to merged."
        )
    return {s: f"{places[0]}.{s.removeprefix(prefix)}" if s.startswith(prefix) else s for s in targets}
