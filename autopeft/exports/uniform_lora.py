"""Uniform LoRA: plain LoRA of any ranks and scales as one that servers read without changing it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from autopeft.exports.parts import problems
from autopeft.exports.parts.uniform import lora_factors, uniform_problems, write_uniform
from autopeft.extension import ExportSource, NeededBase
from autopeft.store import fresh_folder


@dataclass(frozen=True)
class UniformLora:
    """The same update at every site: scale within B, ranks padded with zeros, alpha = r, no patterns."""

    name: str = "uniform-lora"
    summary: str = "one rank and alpha = r, exact; for vLLM, TGI, LoRAX and llama.cpp"
    needs_base: NeededBase = "shapes"

    def problems(self, source: ExportSource) -> tuple[str, ...]:
        """Configs that are not plain LoRA (DoRA is not), modules trained whole, no weights."""
        return uniform_problems(source)

    def export(self, source: ExportSource, out: Path) -> tuple[str, ...]:
        """Write one LoRA adapter; a trained head goes beside it as head.safetensors."""
        problems.refuse(self.name, self.problems(source), instead=_instead(source))
        factors = lora_factors(source)
        with fresh_folder(out) as fresh:
            return write_uniform(factors, source, fresh)


def _instead(source: ExportSource) -> str:
    """The formats that can hold such a plan."""
    if problems.unmergeable(source.configs):
        return "Use --to native"
    if problems.stacked_experts(source.configs):
        return problems.WITHOUT_EXPERTS
    return "Use --to merged"


PART = UniformLora()
