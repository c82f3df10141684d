"""Completes a folder of trained weights: name of the base model, tokenizer, label names."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, cast

from autopeft import model
from autopeft.data import LabelledData
from autopeft.errors import foreign_file
from autopeft.model import BaseModel
from autopeft.model.checkpoint_source import name_labels
from autopeft.model.checks import pad_with
from autopeft.store import cannot_write, sync_files, write_text
from autopeft.types import IN_MEMORY, ModelSpec

# How transformers reads the outputs of a classifier: one label, several at once, or a number.
_PROBLEM_TYPES = {
    "class": "single_label_classification",
    "classes": "multi_label_classification",
    "number": "regression",
}


def write_loading_files(folder: Path, spec: ModelSpec, base: BaseModel, data: LabelledData) -> None:
    """Write base model, tokenizer and, for a classifier, a config with its labels into an adapter's folder.

    Users pass that config to `from_pretrained` of the base model: its outputs then have names, and `pipeline`
    of transformers scores them as the task does.
    """
    labels = data.label_names
    if spec.id != IN_MEMORY:
        name_base(folder, spec.id or model.DEMO_HUB_ID, revision=spec.revision)
    if hasattr(base.tokenizer, "save_pretrained"):
        with foreign_file(lambda error: cannot_write(folder, error)):
            base.tokenizer.save_pretrained(str(folder))
    if labels:
        module = cast(Any, base.module)
        config = model.config_of(spec) if spec.id != IN_MEMORY else copy.deepcopy(module.config)
        config.architectures = [type(module).__name__]
        config.num_labels = len(labels)  # a field of its own in the configs of timm and PVT
        name_labels(config, labels)
        config.problem_type = _PROBLEM_TYPES.get(data.label_space.kind)
        if getattr(module.config, "pad_token_id", None) is not None:  # a model of images has none
            pad_with(config, module.config.pad_token_id)
        config.save_pretrained(str(folder))
    sync_files(folder)


def name_base(folder: Path, name: str, *, revision: str | None) -> None:
    """Write base model and commit, which `peft` does not know, into the configs of a folder."""
    for path in sorted(folder.rglob("adapter_config.json")):
        content = json.loads(path.read_bytes()) | {"base_model_name_or_path": name, "revision": revision}
        write_text(path, json.dumps(content, indent=2, sort_keys=True) + "\n")
