"""Merged: a whole model with the plan in its weights, for everything that reads transformers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from autopeft.exports.parts.merging import merge
from autopeft.exports.parts.problems import refuse, rewrites_base, unmergeable, untrained
from autopeft.extension import ExportSource, NeededBase
from autopeft.store import fresh_folder


@dataclass(frozen=True)
class Merged:
    """The whole model in safetensors, head and tokenizer included, in the precision of the search."""

    name: str = "merged"
    summary: str = "the whole model with the plan merged into its weights, and its tokenizer"
    needs_base: NeededBase = "weights"
    bounds: tuple[str, ...] = ()

    def problems(self, source: ExportSource) -> tuple[str, ...]:
        """Adapters that stay beside the weights, first values that rewrite the base model, no weights."""
        return (*unmergeable(source.configs), *rewrites_base(source.configs), *untrained(source))

    def export(self, source: ExportSource, out: Path) -> tuple[str, ...]:
        """Merge into the base model, check that it computes the same, and write it."""
        refuse(self.name, self.problems(source), instead="Use --to native")
        model = cast(Any, merge(source))
        with fresh_folder(out) as fresh:
            model.save_pretrained(str(fresh))
            if source.tokenizer is not None:
                source.tokenizer.save_pretrained(str(fresh))
        note = f"load it with {type(model).__name__}.from_pretrained, or serve the folder as it is"
        return (note, *([] if source.tokenizer else ["there is no tokenizer in it: the base model has none"]))


PART = Merged()
