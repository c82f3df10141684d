"""A method: LoRA that is allowed at query maps alone."""

from __future__ import annotations

from dataclasses import dataclass

from autopeft.methods.lora import Lora
from autopeft.records import Site


@dataclass(frozen=True)
class QueryLora(Lora):
    """LoRA with another name and fewer sites."""

    name: str = "query_lora"
    label: str = "query LoRA"
    short_label: str = "LoRA-q"
    summary: str = "LoRA at query maps"

    def refusal(self, site: Site) -> str | None:
        return super().refusal(site) if site.role == "q" else "it takes query maps"


PART = QueryLora()
