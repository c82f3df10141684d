"""A method: LoRA at queries only."""

from __future__ import annotations

from dataclasses import replace

from autopeft.methods.lora import PLUGIN as LORA
from autopeft.types import Target


def _refusal(target: Target) -> str | None:
    return LORA.refusal(target) if target.role == "q" else "takes queries"


PLUGIN = replace(
    LORA,
    name="query_lora",
    label="query LoRA",
    short="LoRA-q",
    summary="LoRA at queries",
    refusal=_refusal,
)
