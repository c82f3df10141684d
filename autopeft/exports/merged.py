"""Merged: a whole model with the plan in its weights, for everything that loads transformers models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from autopeft.errors import SpecError
from autopeft.exports._shared.merging import merge
from autopeft.exports._shared.problems import refuse, rewrites_base, unmergeable, untrained
from autopeft.plugins import ExportSource, NeededBase
from autopeft.store import fresh_folder, save_processor


@dataclass(frozen=True)
class Merged:
    """The whole model in safetensors, head and tokenizer included, in the number format of its checkpoint."""

    name: str = "merged"
    summary: str = "the whole model with the plan merged into its weights, and its tokenizer"
    needs_base: NeededBase = "weights"

    def problems(self, source: ExportSource) -> tuple[str, ...]:
        """Name what prevents it: methods that cannot merge, values that rewrite the base, no weights."""
        return (*unmergeable(source.configs), *rewrites_base(source.configs), *untrained(source))

    def export(self, source: ExportSource, out: Path) -> tuple[str, ...]:
        """Merge into the base model, check its outputs, and write it; return notes, or raise SpecError."""
        refuse(self.name, self.problems(source), instead="Use --to native")
        model = cast(Any, merge(source))
        if source.dtype is not None:
            for parameter in model.parameters():  # buffers may be tables of angles, which stay as they are
                if parameter.is_floating_point():
                    parameter.data = parameter.data.to(getattr(torch, source.dtype))
            for name, parameter in model.named_parameters():
                if not parameter.isfinite().all():
                    raise SpecError(
                        f"{name} is not finite in {source.dtype}; choose another --dtype, such as float32."
                    )
        with fresh_folder(out) as fresh:
            model.save_pretrained(str(fresh))
            if source.tokenizer is not None:
                save_processor(source.tokenizer, fresh)
        notes = [f"load it with {type(model).__name__}.from_pretrained, or serve the folder as it is"]
        if source.dtype is not None:
            notes.append(f"its weights are {source.dtype}; --dtype chooses another number format")
        if source.tokenizer is None:
            notes.append("there is no tokenizer in it: the base model has none")
        return tuple(notes)


PLUGIN = Merged()
