"""Native: the files of an adapter that plain `peft` reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from autopeft.exports._shared.adapter import write_adapter
from autopeft.plugins import ExportSource, NeededBase


@dataclass(frozen=True)
class Native:
    """`adapter_config.json`, or one folder per config and `order.json` where a plan needs several."""

    name: str = "native"
    summary: str = "adapter_config.json for peft; one folder per config where a plan mixes methods"
    needs_base: NeededBase = "none"

    def problems(self, source: ExportSource) -> tuple[str, ...]:
        """Return no problems: this format holds every plan."""
        return ()

    def export(self, source: ExportSource, out: Path) -> tuple[str, ...]:
        """Write the configs of a plan, and its weights if it is trained; return notes."""
        return write_adapter(source, out)


PLUGIN = Native()
