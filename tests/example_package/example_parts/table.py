"""A format: the configs of a plan as one table for people."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from autopeft.extension import ExportSource, NeededBase
from autopeft.store import refuse_files, write_text


@dataclass(frozen=True)
class Table:
    """One line per config: the method of `peft` and the modules that it is for."""

    name: str = "table"
    summary: str = "a text table of the configs"
    needs_base: NeededBase = "none"
    bounds: tuple[str, ...] = ()

    def problems(self, source: ExportSource) -> tuple[str, ...]:
        return ()

    def export(self, source: ExportSource, out: Path) -> tuple[str, ...]:
        refuse_files(out)
        lines = [f"{config.peft_type.value}\t{config.target_modules}" for config in source.configs]
        write_text(out / "table.txt", "\n".join(lines) + "\n")
        return (f"{len(lines)} configs",)


PART = Table()
