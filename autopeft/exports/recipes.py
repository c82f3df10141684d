"""Recipes: lines that set up one adapter in peft, TRL, unsloth, axolotl or LLaMA-Factory.

`suggest --for` prints them, and `export --to` writes them to a file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pprint import pformat
from textwrap import indent
from typing import Any

import peft
from peft.tuners.tuners_utils import check_target_module_exists

from autopeft.adapters.configs import changed_fields
from autopeft.errors import SpecError
from autopeft.exports._shared.adapter import configs_of
from autopeft.exports._shared.problems import adapts_nothing, lora_problems, not_lora, refuse
from autopeft.model.attaching import plain_names
from autopeft.plugins import ExportSource, NeededBase
from autopeft.store import fresh_folder, write_text, write_yaml_text
from autopeft.train import WARMUP_SHARE
from autopeft.types import QUANTIZED

Fields = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A file for another trainer of language models.

    `lines` writes it from the fields of the `peft` config. `keys` maps the fields of LoRA that the trainer
    takes to its own names for them, or to None if `lines` expresses them otherwise. Without `keys` it takes
    any config of `peft`.
    """

    name: str
    summary: str
    file: str
    lines: Callable[[ExportSource, Fields], str]
    keys: Mapping[str, str | None] | None = None
    needs_base: NeededBase = "none"

    def problems(self, source: ExportSource) -> tuple[str, ...]:
        """List what the trainer cannot do: no or several adapters, another task, fields without a key."""
        faults = [*(adapts_nothing(source.configs) if self.keys is None else not_lora(source.configs))]
        if source.task_type not in ("CAUSAL_LM", None):
            faults.append(f"it trains causal language models, and the plan is for {source.task_type}")
        if len(source.configs) > 1:
            faults.append(f"it takes one config, and the plan has {len(source.configs)}")
        if faults:
            return tuple(faults)
        config: Any = source.configs[0]
        if self.keys is None:
            name = type(config).__name__
            return () if hasattr(peft, name) else (f"{name} is not a config of peft itself",)
        if source.checkpoint.own_class:
            faults.append(f"it loads {source.checkpoint.own_class}, whose modules have other names")
        faults += lora_problems([config], fields=tuple(self.keys))
        if odd := [alpha for alpha in (config.lora_alpha, *config.alpha_pattern.values()) if alpha % 1]:
            faults.append(f"it reads alpha as a whole number, and the plan has {odd[0]:g}")
        if "init_lora_weights" not in self.keys and config.init_lora_weights is not True:
            faults.append(f"it has no init_lora_weights={config.init_lora_weights!r}")
        return tuple(faults)

    def text(self, source: ExportSource) -> str:
        """Return the lines for a plan without problems; unknown facts of the training are left out."""
        (config,) = configs_of(source)
        shown = {
            name: getattr(config, name)
            for name in ("r", "lora_alpha", "lora_dropout")
            if hasattr(config, name)
        }
        fields = shown | changed_fields(config)
        if self.keys is not None:
            fields = {key: value for name, value in fields.items() if (key := self.keys.get(name))}
        return self.lines(source, fields)

    def export(self, source: ExportSource, out: Path) -> tuple[str, ...]:
        """Write the file, to which the user adds the data; return notes."""
        also = "--to trl or " if self.keys is not None and not TRL.problems(source) else ""
        refuse(self.name, self.problems(source), instead=f"Use {also}--to native")
        with fresh_folder(out) as fresh:
            write_text(fresh / self.file, f"{self.text(source)}\n")
        is_unknown = source.training.learning_rate is None
        return ("the learning rate is not known; set it",) if is_unknown else ()


class _Code(str):
    """Python code among values that are written as literals."""

    __repr__ = str.__str__


def _plain(value: Any) -> Any:
    """Simplify a value for YAML and Python: sets as sorted lists, whole floats as integers, None left out."""
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items() if entry is not None}
    if isinstance(value, set | list | tuple):
        return [_plain(entry) for entry in (sorted(value) if isinstance(value, set) else value)]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _call(function: str, arguments: Mapping[str, Any]) -> str:
    """Write a call in Python, one argument a line."""
    lines = (
        f"{name}={pformat(value, width=100, sort_dicts=False)},\n"
        for name, value in _plain(arguments).items()
    )
    return f"{function}(\n{indent(''.join(lines), '    ')})"


def _peft(source: ExportSource, fields: Fields) -> str:
    kind = type(source.configs[0]).__name__
    return f"from peft import {kind}\n\nconfig = {_call(kind, {'task_type': source.task_type, **fields})}"


def _arguments(source: ExportSource) -> dict[str, Any]:
    """Gather how to train, by the names of transformers' `TrainingArguments`."""
    facts = source.training
    return {
        "learning_rate": facts.learning_rate,
        "lr_scheduler_type": "linear",
        "warmup_steps": facts.warmup_steps,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "per_device_train_batch_size": facts.micro_batch_size,
        "gradient_accumulation_steps": facts.accumulation_steps,
        "num_train_epochs": None if facts.max_steps else facts.epochs,
        "max_steps": facts.max_steps,
        "seed": facts.seed,
        "bf16": None if facts.dtype is None else facts.dtype == "bfloat16",
        "fp16": facts.dtype == "float16" or None,
    }


def _sft_config(source: ExportSource, **more: Any) -> str:
    facts = source.training
    settings = {"output_dir": "out", **_arguments(source), "max_length": facts.max_length, **more}
    if facts.warmup_steps is None:
        settings["warmup_steps"] = WARMUP_SHARE  # transformers reads a share below 1
    if facts.packs:
        settings |= {"packing": True, "packing_strategy": "wrapped"}
    return f"from trl import SFTConfig, SFTTrainer\n\nargs = {_call('SFTConfig', settings)}"


def _trl(source: ExportSource, fields: Fields) -> str:
    facts, bits = source.training, QUANTIZED.get(source.training.quantize)
    loading = {"revision": source.checkpoint.revision, "dtype": facts.dtype or "float32"}
    if bits is not None:
        quantized = {**bits, "bnb_4bit_compute_dtype": loading["dtype"]}
        arguments = ", ".join(f"{name}={value!r}" for name, value in quantized.items())
        loading["quantization_config"] = _Code(f"BitsAndBytesConfig({arguments})")
    if source.checkpoint.dequantizes:
        loading["quantization_config"] = _Code("Mxfp4Config(dequantize=True)")
    config_class = "BitsAndBytesConfig" if bits else "Mxfp4Config" if source.checkpoint.dequantizes else ""
    blocks = [
        _peft(source, fields),
        *([f"from transformers import {config_class}"] if config_class else []),
        _sft_config(source, gradient_checkpointing=facts.checkpointing, model_init_kwargs=loading),
        f"# trainer = SFTTrainer({source.base_model!r}, args=args, train_dataset=..., peft_config=config)\n"
        "# On chats, TRL learns all messages unless SFTConfig has assistant_only_loss=True.\n"
        "# Before version 1.7 it holds all logits at once, and needs more memory.",
    ]
    if bits:
        blocks.append(
            "# TRL makes adapters of quantized models bfloat16. The search trains them in float32:\n"
            "# for parameter in trainer.model.parameters():\n"
            "#     if parameter.requires_grad:\n"
            "#         parameter.data = parameter.data.float()"
        )
    return "\n\n".join(blocks)


def _unsloth(source: ExportSource, fields: Fields) -> str:
    facts = source.training
    loading = {
        "model_name": source.base_model,
        "revision": source.checkpoint.revision,
        "max_seq_length": facts.max_length,
        "load_in_4bit": facts.quantize == "4bit",
        "load_in_8bit": facts.quantize == "8bit",
    }
    adapter = {"model": _Code("model"), **fields, "use_gradient_checkpointing": facts.checkpointing}
    return (
        "from unsloth import FastLanguageModel  # before trl, which it patches\n\n"
        f"{_sft_config(source)}\n\n"
        f"model, tokenizer = {_call('FastLanguageModel.from_pretrained', loading)}\n"
        f"model = {_call('FastLanguageModel.get_peft_model', adapter)}\n"
        "# trainer = SFTTrainer(model, args=args, train_dataset=..., processing_class=tokenizer)"
    )


_AXOLOTL_NAMES = {  # where they differ from those of `TrainingArguments`
    "lr_scheduler_type": "lr_scheduler",
    "per_device_train_batch_size": "micro_batch_size",
    "num_train_epochs": "num_epochs",
}


def _axolotl(source: ExportSource, fields: Fields) -> str:
    facts = source.training
    settings = {
        "base_model": source.base_model,
        "revision_of_model": source.checkpoint.revision,
        "adapter": "qlora" if facts.quantize == "4bit" else "lora",
        "load_in_4bit": facts.quantize == "4bit",
        "load_in_8bit": facts.quantize == "8bit",
        "model_quantization_config": "Mxfp4Config" if source.checkpoint.dequantizes else None,
        "model_quantization_config_kwargs": {"dequantize": True} if source.checkpoint.dequantizes else None,
        **fields,
        **{_AXOLOTL_NAMES.get(name, name): value for name, value in _arguments(source).items()},
        "warmup_ratio": WARMUP_SHARE if facts.warmup_steps is None else None,
        "optimizer": "adamw_torch",
        "sequence_len": facts.max_length,
        "gradient_checkpointing": facts.checkpointing,
        "train_on_inputs": False,
    }
    note = " Ranks per module need axolotl's pull request #3673." if "lora_rank_pattern" in fields else ""
    return (
        f"# Add datasets, output_dir and whatever axolotl also needs.{note}\n"
        f"# All keys: https://docs.axolotl.ai/docs/config-reference.html\n{_yaml(settings)}"
    )


def _llama_factory(source: ExportSource, fields: Fields) -> str:
    facts = source.training
    settings = {
        "model_name_or_path": source.base_model,
        "model_revision": source.checkpoint.revision,
        "quantization_bit": {"4bit": 4, "8bit": 8}.get(facts.quantize),
        "stage": "pt" if facts.packs else "sft",
        "do_train": True,
        "finetuning_type": "lora",
        **fields,
        "lora_target": ",".join(_target_names(source)),
        "additional_target": ",".join(source.head) or None,
        **_arguments(source),
        "warmup_ratio": WARMUP_SHARE if facts.warmup_steps is None else None,
        "cutoff_len": facts.max_length,
        "disable_gradient_checkpointing": facts.checkpointing is False or None,
    }
    return (
        "# Add dataset, template, output_dir and what else LLaMA-Factory needs.\n"
        f"# All keys: https://github.com/hiyouga/LLaMA-Factory, src/llamafactory/hparams\n{_yaml(settings)}"
    )


def _target_names(source: ExportSource) -> list[str]:
    """List the target modules by endings of their names; LLaMA-Factory takes neither patterns nor layers."""
    config: Any = source.configs[0]
    if config.target_modules == "all-linear":
        return ["all"]
    if source.base is None:
        if isinstance(config.target_modules, str):
            raise SpecError(
                "LLaMA-Factory takes names of modules, and these need a pattern; use peft or trl."
            )
        return sorted(config.target_modules)
    modules = dict(source.base.named_modules())
    return plain_names({n for n in modules if n and check_target_module_exists(config, n)}, modules)


def _yaml(settings: Mapping[str, Any]) -> str:
    return write_yaml_text(_plain(settings)).rstrip()


_LORA = "target_modules target_parameters rank_pattern alpha_pattern modules_to_save".split()
_LAYERS = "use_dora use_rslora layers_to_transform layers_pattern init_lora_weights".split()
_BY_NAMES = (
    "target_modules exclude_modules layers_to_transform layers_pattern modules_to_save fan_in_fan_out".split()
)
_SAME = {"lora_alpha": "lora_alpha", "lora_dropout": "lora_dropout"}
TRL = Recipe(
    name="trl", summary="Python for TRL's SFTTrainer: any one peft config", file="train.py", lines=_trl
)
PEFT = Recipe(name="peft", summary="Python for peft", file="train.py", lines=_peft)
PLUGINS = (
    TRL,
    Recipe(
        name="unsloth",
        summary="Python for unsloth and SFTTrainer: LoRA with ranks per module",
        file="train.py",
        lines=_unsloth,
        keys=_SAME | {name: name for name in ("r", *_LORA, *_LAYERS)},
    ),
    Recipe(
        name="axolotl",
        summary="YAML for axolotl: LoRA with ranks per module, whole alphas",
        file="axolotl.yaml",
        lines=_axolotl,
        keys=_SAME
        | {name: f"lora_{name}" for name in ("r", "fan_in_fan_out", *_LORA)}
        | {name: f"peft_{name}" for name in ("trainable_token_indices", *_LAYERS)},
    ),
    Recipe(
        name="llama-factory",
        summary="YAML for LLaMA-Factory: LoRA of one rank and one whole alpha",
        file="llama_factory.yaml",
        lines=_llama_factory,
        keys=_SAME
        | {"r": "lora_rank", "use_dora": "use_dora", "use_rslora": "use_rslora"}
        | dict.fromkeys(_BY_NAMES),
        needs_base="shapes",
    ),
)
RECIPES: Mapping[str, Recipe] = {recipe.name: recipe for recipe in (PEFT, *PLUGINS)}
