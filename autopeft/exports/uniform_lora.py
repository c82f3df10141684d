"""Uniform LoRA: plain LoRA of any ranks and scales as one that servers read without changing it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from autopeft.exports.parts import problems
from autopeft.exports.parts.uniform import lora_factors, write_uniform
from autopeft.extension import ExportSource, NeededBase
from autopeft.store import fresh_folder

# Fields that say where LoRA sits and how it is scaled: all of that is in the tensors afterwards.
_FOLDED = (
    "r lora_alpha rank_pattern alpha_pattern use_rslora target_modules exclude_modules layers_to_transform "
    "layers_pattern fan_in_fan_out lora_dropout modules_to_save".split()
)


@dataclass(frozen=True)
class UniformLora:
    """The same update at every site: scale within B, ranks padded with zeros, alpha = r, no patterns."""

    name: str = "uniform-lora"
    summary: str = "one rank and alpha = r, exact; for vLLM, TGI, LoRAX and llama.cpp"
    needs_base: NeededBase = "shapes"

    def problems(self, source: ExportSource) -> tuple[str, ...]:
        """Configs that are not plain LoRA (DoRA is not), modules trained whole, no weights."""
        configs = source.configs
        faults = [*(problems.not_lora(configs) or problems.lora_problems(configs, fields=_FOLDED))]
        # A language model's own modules that are trained too, which readers of LoRA pass over.
        if source.task_type in ("CAUSAL_LM", "SEQ_2_SEQ_LM") and source.head:
            faults.append(
                f"modules_to_save={problems.short(list(source.head))} is read by none of its readers"
            )
        return (*faults, *problems.untrained(source))

    def export(self, source: ExportSource, out: Path) -> tuple[str, ...]:
        """Write one LoRA adapter; a trained head goes beside it as head.safetensors."""
        instead = "Use --to merged"
        if problems.unmergeable(source.configs):
            instead = "Use --to native"
        elif problems.stacked_experts(source.configs):
            instead = problems.WITHOUT_EXPERTS
        problems.refuse(self.name, self.problems(source), instead=instead)
        factors = lora_factors(source)
        with fresh_folder(out) as fresh:
            return write_uniform(factors, source, fresh)


PART = UniformLora()
