"""Uniform LoRA: writes LoRA of any ranks and scales as one rank and scale, which every server reads right."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from autopeft.exports._shared import problems
from autopeft.exports._shared.uniform import lora_factors, write_uniform
from autopeft.plugins import ExportSource, NeededBase
from autopeft.store import fresh_folder

# Fields that say where LoRA sits and how it is scaled; the written tensors contain all of that.
_FOLDED = (
    "r lora_alpha rank_pattern alpha_pattern use_rslora target_modules exclude_modules layers_to_transform "
    "layers_pattern fan_in_fan_out lora_dropout modules_to_save".split()
)


@dataclass(frozen=True)
class UniformLora:
    """Keeps the update at every target: scale within B, ranks padded with zeros, alpha = r, no patterns."""

    name: str = "uniform-lora"
    summary: str = "one rank and alpha = r, exact; for vLLM, TGI, LoRAX and llama.cpp"
    needs_base: NeededBase = "shapes"

    def problems(self, source: ExportSource) -> tuple[str, ...]:
        """Name what it cannot hold: other than plain LoRA, a language model's whole modules, no weights."""
        configs = source.configs
        faults = [*(problems.not_lora(configs) or problems.lora_problems(configs, fields=_FOLDED))]
        # Readers of LoRA ignore modules of a language model that are trained whole.
        if source.task_type in ("CAUSAL_LM", "SEQ_2_SEQ_LM") and source.head:
            faults.append(
                f"modules_to_save={problems.short(list(source.head))} is read by none of its readers"
            )
        return (*faults, *problems.untrained(source))

    def export(self, source: ExportSource, out: Path) -> tuple[str, ...]:
        """Write one LoRA adapter, and a trained head beside it as head.safetensors; return notes."""
        instead = "Use --to merged"
        if problems.unmergeable(source.configs):
            instead = "Use --to native"
        elif problems.stacked_experts(source.configs):
            instead = problems.WITHOUT_EXPERTS
        problems.refuse(self.name, self.problems(source), instead=instead)
        factors = lora_factors(source)
        with fresh_folder(out) as fresh:
            return write_uniform(factors, source, fresh)


PLUGIN = UniformLora()
