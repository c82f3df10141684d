"""axolotl: the part of its YAML that says what to train and how fast."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autopeft.exports.parts.adapter import configs_of
from autopeft.exports.parts.problems import refuse
from autopeft.exports.parts.recipe import (
    instead_of_yaml,
    length,
    lora_recipe_problems,
    lora_settings,
    rate_note,
    schedule,
    text_comment,
)
from autopeft.extension import ExportSource, NeededBase
from autopeft.store import fresh_folder, write_text, write_yaml_text

# Field of LoraConfig -> key. https://docs.axolotl.ai/docs/config-reference.html; the two patterns came
# with pull request #3673.
_LORA_KEYS = {
    "r": "lora_r",
    "lora_alpha": "lora_alpha",
    "lora_dropout": "lora_dropout",
    "target_modules": "lora_target_modules",
    "target_parameters": "lora_target_parameters",
    "rank_pattern": "lora_rank_pattern",
    "alpha_pattern": "lora_alpha_pattern",
    "modules_to_save": "lora_modules_to_save",
    "fan_in_fan_out": "lora_fan_in_fan_out",
    "use_dora": "peft_use_dora",
    "use_rslora": "peft_use_rslora",
    "layers_to_transform": "peft_layers_to_transform",
    "layers_pattern": "peft_layers_pattern",
    "init_lora_weights": "peft_init_lora_weights",
    "trainable_token_indices": "peft_trainable_token_indices",
}
_LENGTH_KEYS = {
    "batch_size": "micro_batch_size",
    "epochs": "num_epochs",
    "max_steps": "max_steps",
    "max_length": "sequence_len",
    "seed": "seed",
}
_BITS: dict[str, dict[str, Any]] = {
    "4bit": {"adapter": "qlora", "load_in_4bit": True},
    "8bit": {"load_in_8bit": True},
}
DOCUMENTED_KEYS = (
    *_LORA_KEYS.values(),
    *_LENGTH_KEYS.values(),
    *("revision_of_model", "load_in_4bit", "load_in_8bit", "train_on_inputs"),
    *("base_model", "adapter", "learning_rate", "lr_scheduler", "warmup_ratio", "weight_decay"),
    *("max_grad_norm", "optimizer"),
)
_HEADER = """\
# What to train and how fast, as found by autopeft. Add what axolotl needs besides: datasets, output_dir, and
# sequence_len, micro_batch_size, num_epochs where they are not here. Its patterns need a version with
# lora_rank_pattern (#3673).
"""
_ADVICE = "Let axolotl's datasets and chat_template write the same."


@dataclass(frozen=True)
class Axolotl:
    """`adapter: lora` with rank and alpha patterns; alphas must be whole numbers."""

    name: str = "axolotl"
    summary: str = "YAML for axolotl: LoRA with ranks per module, whole alphas"
    needs_base: NeededBase = "none"
    bounds: tuple[str, ...] = ()

    def problems(self, source: ExportSource) -> tuple[str, ...]:
        """Other methods than LoRA, other tasks than language modelling, alphas between whole numbers."""
        return lora_recipe_problems(source, known=tuple(_LORA_KEYS))

    def export(self, source: ExportSource, out: Path) -> tuple[str, ...]:
        """Write axolotl.yaml, to be completed with data and length."""
        refuse(self.name, self.problems(source), instead=instead_of_yaml(source))
        (config,) = configs_of(source)
        content = {
            "base_model": source.base_model,
            **({"revision_of_model": revision} if (revision := source.checkpoint.revision) else {}),
            "adapter": "lora",
            **_BITS.get(source.training.quantize, {}),
            **lora_settings(config, _LORA_KEYS),
            **schedule(source, scheduler_key="lr_scheduler", warmup_key="warmup_ratio"),
            **length(source, _LENGTH_KEYS),
            "optimizer": "adamw_torch",
            "train_on_inputs": False,
        }
        with fresh_folder(out) as fresh:
            write_text(
                fresh / "axolotl.yaml",
                _HEADER + text_comment(source, advice=_ADVICE) + write_yaml_text(content),
            )
        known = {"sequence_len", "micro_batch_size", "num_epochs"} - content.keys()
        if "max_steps" in content:
            known.discard("num_epochs")
        note = f"add {', '.join(['datasets', *sorted(known)])} to axolotl.yaml"
        return (note, *rate_note(source))


PART = Axolotl()
