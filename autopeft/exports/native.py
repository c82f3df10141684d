"""Native: what plain `peft` reads."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from peft import PeftConfig
from safetensors.torch import save_file

from autopeft.adapters import type_counts
from autopeft.exports.parts.folder import fresh_folder
from autopeft.exports.parts.tensors import configs_of, contiguous
from autopeft.extension import ExportSource
from autopeft.model import adapter_names

# What `peft` reads once it has been taught to.
_OURS = {
    "BOTTLENECK": "import autopeft.methods.bottleneck",
    "BIAS_SHIFT": "import autopeft.methods.bitfit",
}


@dataclass(frozen=True)
class Native:
    """`adapter_config.json`, or one folder per config and `order.json` where a plan needs several."""

    name: str = "native"
    summary: str = "adapter_config.json for peft; one folder per config where a plan mixes methods"
    needs_weights: bool = False
    needs_base: str = "none"

    def problems(self, source: ExportSource) -> tuple[str, ...]:
        """None: a plan is made of such configs."""
        return ()

    def export(self, source: ExportSource, out: Path) -> tuple[str, ...]:
        """Write the configs of a plan, and its weights where it is trained.

        The head's modules are named: left to itself `peft` takes those called classifier or score,
        and not T5's, nor the poolers of DeBERTa and ModernBERT.
        """
        configs = configs_of(source)
        names = adapter_names(configs)
        with fresh_folder(out) as fresh:
            for index, (config, name) in enumerate(zip(configs, names, strict=True)):
                folder = fresh / name if len(names) > 1 else fresh
                write_config(config, folder, base_model=source.base_model)
                if source.weights:
                    weights = contiguous(source.weights[index])
                    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
            if len(names) > 1:
                (fresh / "order.json").write_text(json.dumps(names) + "\n", encoding="utf-8")
        notes = [] if len(names) == 1 else ["attach the folders in the order of order.json"]
        notes += [
            f"{kind} is a tuner of ours: {_OURS[kind]} first"
            for kind in type_counts(configs)
            if kind in _OURS
        ]
        return (*notes, *([] if source.weights else ["there are no weights in it: the plan is not trained"]))


def write_config(config: PeftConfig, folder: Path, *, base_model: str) -> None:
    """Write `adapter_config.json` as `peft` does, which makes the folder."""
    config.base_model_name_or_path = base_model
    config.save_pretrained(str(folder))


PART = Native()
