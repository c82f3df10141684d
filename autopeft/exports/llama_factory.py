"""LLaMA-Factory: the part of its YAML that says what to train and how fast."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from peft import PeftConfig
from peft.tuners.tuners_utils import check_target_module_exists
from torch import nn
from transformers.pytorch_utils import Conv1D

from autopeft.errors import SpecError
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
from autopeft.exports.parts.uniform import plain_names
from autopeft.extension import ExportSource, NeededBase
from autopeft.store import fresh_folder, write_text, write_yaml_text

# https://github.com/hiyouga/LLaMA-Factory: src/llamafactory/hparams/finetuning_args.py, examples/train_lora
_LORA_KEYS = {
    "r": "lora_rank",
    "lora_alpha": "lora_alpha",
    "lora_dropout": "lora_dropout",
    "use_dora": "use_dora",
    "use_rslora": "use_rslora",
}
_LENGTH_KEYS = {
    "batch_size": "per_device_train_batch_size",
    "epochs": "num_train_epochs",
    "max_steps": "max_steps",
    "max_length": "cutoff_len",
    "seed": "seed",
}
_BITS = {"4bit": {"quantization_bit": 4}, "8bit": {"quantization_bit": 8}}
DOCUMENTED_KEYS = (
    *_LORA_KEYS.values(),
    *_LENGTH_KEYS.values(),
    *("model_revision", "quantization_bit"),
    *("model_name_or_path", "stage", "do_train", "finetuning_type", "lora_target", "additional_target"),
    *("learning_rate", "lr_scheduler_type", "warmup_ratio", "weight_decay", "max_grad_norm"),
)
# Said by lora_target and additional_target, which take names.
_NAMED = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save")
_HEADER = """\
# What to train and how fast, as found by autopeft. Add what LLaMA-Factory needs besides: dataset, template,
# output_dir, and cutoff_len, per_device_train_batch_size, num_train_epochs where they are not here.
"""
_ADVICE = "Choose a template that writes the same."


@dataclass(frozen=True)
class LlamaFactory:
    """`finetuning_type: lora` with one rank and one alpha; it has no patterns and no regular expressions."""

    name: str = "llama-factory"
    summary: str = "YAML for LLaMA-Factory: LoRA of one rank and one whole alpha"
    needs_base: NeededBase = "shapes"
    bounds: tuple[str, ...] = ()

    def problems(self, source: ExportSource) -> tuple[str, ...]:
        """Other methods than LoRA, other tasks, ranks or alphas that differ between modules."""
        known = (*_LORA_KEYS, *_NAMED, "rank_pattern", "alpha_pattern", "fan_in_fan_out")
        return lora_recipe_problems(source, known=known, further=_further_problems)

    def export(self, source: ExportSource, out: Path) -> tuple[str, ...]:
        """Write llama_factory.yaml, to be completed with data and template."""
        refuse(self.name, self.problems(source), instead=instead_of_yaml(source))
        (config,) = configs_of(source)
        assert source.base is not None, "the shapes of the base model are needed"
        content = {
            "model_name_or_path": source.base_model,
            **({"model_revision": revision} if (revision := source.checkpoint.revision) else {}),
            **_BITS.get(source.training.quantize, {}),
            "stage": "sft",
            "do_train": True,
            "finetuning_type": "lora",
            "lora_target": ",".join(_targets(config, source.base)),
            **lora_settings(config, _LORA_KEYS),
            **({"additional_target": ",".join(source.head)} if source.head else {}),
            **schedule(source, scheduler_key="lr_scheduler_type", warmup_key="warmup_ratio"),
            **length(source, _LENGTH_KEYS),
        }
        with fresh_folder(out) as fresh:
            write_text(
                fresh / "llama_factory.yaml",
                _HEADER + text_comment(source, advice=_ADVICE) + write_yaml_text(content),
            )
        lacking = [] if "cutoff_len" in content else ["cutoff_len"]
        names = ", ".join(["dataset", "template", *lacking])
        return (f"add {names} and output_dir to llama_factory.yaml", *rate_note(source))


def _further_problems(config: PeftConfig) -> Iterator[str]:
    """The problems of first values that are not LoRA's usual ones, and of ranks or alphas that differ."""
    if getattr(config, "init_lora_weights", True) is not True:
        yield "it chooses the first values of LoRA itself, and the config names others"
    for name in ("rank", "alpha"):
        if getattr(config, f"{name}_pattern"):
            yield f"it has one {name} for all modules, and the plan's differ"


def _targets(config: PeftConfig, base: nn.Module) -> list[str]:
    """The modules that a config means, as a list of endings that means the same."""
    modules = dict(base.named_modules())
    linear = {name for name, module in modules.items() if isinstance(module, nn.Linear | Conv1D)}
    sites = {name for name in modules if name and check_target_module_exists(config, name)}
    if config.target_modules == "all-linear":
        outputs = base.get_output_embeddings()  # type: ignore[operator]
        sites = {name for name in linear if modules[name] is not outputs}
    if not sites or not sites <= linear:
        odd = sorted(sites - linear) or ["no module"]
        raise SpecError(
            f"The config means {odd[0]} of the base model, and LoRA there takes linear maps; pass --model "
            "with the one that it was made for."
        )
    return plain_names(sites, modules)


PART = LlamaFactory()
