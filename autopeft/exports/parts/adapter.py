"""Writes adapters as plain `peft` reads them."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import save_file

from autopeft.adapters import type_name
from autopeft.exports.parts.folder import fresh_folder
from autopeft.exports.parts.tensors import configs_of, contiguous
from autopeft.extension import ExportSource
from autopeft.model import adapter_names


def write_adapter(source: ExportSource, out: Path) -> tuple[str, ...]:
    """Write the configs of a plan, and its weights where it is trained; gives notes for their reader.

    One config lies in the folder itself, several in a folder each, in the order of `order.json`. The head's
    modules are named: left to itself `peft` takes those called classifier or score, and not T5's, nor the
    poolers of DeBERTa and ModernBERT.
    """
    configs = configs_of(source)
    names = adapter_names(configs)
    with fresh_folder(out) as fresh:
        for index, (config, name) in enumerate(zip(configs, names, strict=True)):
            folder = fresh / name if len(names) > 1 else fresh
            config.base_model_name_or_path = source.base_model
            config.save_pretrained(str(folder))  # which makes the folder
            if source.weights:
                weights = contiguous(source.weights[index])
                save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        if len(names) > 1:
            (fresh / "order.json").write_text(json.dumps(names) + "\n", encoding="utf-8")
    notes = [] if len(names) == 1 else ["attach the folders in the order of order.json"]
    modules = {type_name(config): type(config).__module__ for config in configs}
    foreign = {name: module for name, module in modules.items() if not module.startswith("peft.")}
    notes += [f"peft knows {name} after: import {module}" for name, module in foreign.items()]
    return (*notes, *([] if source.weights else ["there are no weights in it: the plan is not trained"]))
