"""Recipes: files that train a plan's one adapter in TRL, axolotl or LLaMA-Factory, made by templates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import peft
from jinja2 import Environment, PackageLoader
from peft.tuners.tuners_utils import check_target_module_exists

from autopeft.adapters.configs import changed_fields
from autopeft.exports._shared.adapter import configs_of
from autopeft.exports._shared.problems import adapts_nothing, lora_problems, not_lora, refuse
from autopeft.model.attaching import plain_names
from autopeft.plugins import ExportSource, NeededBase
from autopeft.store import fresh_folder, write_text, write_yaml_text
from autopeft.train import WARMUP_SHARE
from autopeft.types import QUANTIZED


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A file for another trainer of language models, made by the template of its name.

    `keys` maps the fields of LoRA that the trainer takes to the trainer's names for them. Without keys, the
    file reads a config of `peft` written beside it. `by_names` are fields of LoRA without a key, which the
    file expresses by a list of the base model's modules.
    """

    name: str
    summary: str
    file: str
    keys: Mapping[str, str] = field(default_factory=dict)
    by_names: tuple[str, ...] = ()
    needs_base: NeededBase = "none"

    def problems(self, source: ExportSource) -> tuple[str, ...]:
        """Name what the trainer cannot do: no or several adapters, another task, fields without a key."""
        faults = [*adapts_nothing(source.configs), *(not_lora(source.configs) if self.keys else ())]
        if source.task_type != "CAUSAL_LM":
            task = source.task_type or "no task"
            faults.append(f"it trains causal language models, and the plan is for {task}")
        if source.base_model.endswith(".gguf"):
            faults.append("its loader reads no GGUF file; pass --model with the model in safetensors")
        if len(source.configs) > 1:
            faults.append(f"it takes one config, and the plan has {len(source.configs)}")
        if self.keys and source.checkpoint.own_class:
            faults.append(f"it loads {source.checkpoint.own_class}, of which the modules have other names")
        config: Any = source.configs[0] if source.configs else None
        if not self.keys and config and not hasattr(peft, type(config).__name__):
            faults.append(f"{type(config).__name__} is no config of peft itself")
        if self.keys and not faults:
            faults += lora_problems([config], fields=(*self.keys, *self.by_names))
            alphas = sorted({config.lora_alpha, *config.alpha_pattern.values()})
            if odd := [str(alpha) for alpha in alphas if alpha != int(alpha)]:
                faults.append(f"its alphas are whole numbers, and the plan has {', '.join(odd)}")
            if "init_lora_weights" not in self.keys and config.init_lora_weights is not True:
                faults.append("it chooses the first values of LoRA itself, and the config names others")
        return tuple(dict.fromkeys(faults))

    def export(self, source: ExportSource, out: Path) -> tuple[str, ...]:
        """Write the file, in which the user fills in the data; return notes."""
        also = "--to trl or " if self.keys and not PLUGINS[0].problems(source) else ""
        refuse(self.name, self.problems(source), instead=f"Use {also}--to native")
        config: Any = configs_of(source)[0]
        lora = {name: getattr(config, name, None) for name in ("r", "lora_alpha", "lora_dropout")}
        modules = dict(source.base.named_modules()) if source.base and self.by_names else {}
        targets = {name for name in modules if name and check_target_module_exists(config, name)}
        environment = Environment(loader=PackageLoader("autopeft", "templates"), trim_blocks=True)
        environment.filters |= {"known": _plain, "yaml": write_yaml_text}
        text = environment.get_template(f"{self.file}.j2").render(
            vars(source.training),
            source=source,
            lora={self.keys[n]: v for n, v in {**lora, **changed_fields(config)}.items() if n in self.keys},
            targets=["all"] if config.target_modules == "all-linear" else plain_names(targets, modules),
            bits=QUANTIZED.get(source.training.quantize),
            warmup=WARMUP_SHARE,
        )
        with fresh_folder(out) as fresh:
            write_text(fresh / self.file, f"{text.rstrip()}\n")
            if not self.keys:
                config.save_pretrained(str(fresh))
        call = "call make_trainer(train_dataset, output_dir=...).train() of train.py; to_rows makes such rows"
        notes = [f"add to {self.file} what its first lines name" if self.keys else call]
        if source.training.learning_rate is None:
            notes.append("the learning rate is not known; set it")
        return tuple(notes)


def _plain(value: Any) -> Any:
    """Simplify a value for YAML and Python: sets as sorted lists, whole floats as integers, None left out."""
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items() if entry is not None}
    if isinstance(value, set | list | tuple):
        return [_plain(entry) for entry in (sorted(value) if isinstance(value, set) else value)]
    return int(value) if isinstance(value, float) and value.is_integer() else value


_LORA = "r target_modules target_parameters rank_pattern alpha_pattern modules_to_save fan_in_fan_out"
_PEFT = "use_dora use_rslora layers_to_transform layers_pattern init_lora_weights trainable_token_indices"
_SAME = {"lora_alpha": "lora_alpha", "lora_dropout": "lora_dropout"}
_NAMED = "target_modules exclude_modules layers_to_transform layers_pattern modules_to_save fan_in_fan_out"
PLUGINS = (
    Recipe(name="trl", summary="Python for TRL's SFTTrainer: any one peft config", file="train.py"),
    Recipe(
        name="axolotl",
        summary="YAML for axolotl: LoRA with ranks per module, whole alphas",
        file="axolotl.yaml",
        keys=_SAME | {n: f"lora_{n}" for n in _LORA.split()} | {n: f"peft_{n}" for n in _PEFT.split()},
    ),
    Recipe(
        name="llama-factory",
        summary="YAML for LLaMA-Factory: LoRA of one rank and one whole alpha",
        file="llama_factory.yaml",
        keys=_SAME | {"r": "lora_rank", "use_dora": "use_dora", "use_rslora": "use_rslora"},
        by_names=tuple(_NAMED.split()),
        needs_base="shapes",
    ),
)
