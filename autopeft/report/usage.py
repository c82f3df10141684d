"""Python that loads the trained adapter with transformers and peft alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from autopeft.records import IN_MEMORY, QUANTISED, SearchResult
from autopeft.report.rendering import render

_IMAGE_CLASS = "AutoModelForImageClassification"  # its base models come with an image processor, no tokenizer


def python_lines(
    result: SearchResult,
    auto_class: str,
    *,
    folder: str = "best/weights",
    sub_folders: Sequence[str] = (),
    imports: Sequence[str] = (),
    source: str | None = None,
) -> str:
    """Lines to paste that load the confirmed adapter, by default in the folder of the run.

    Args:
        result: A search with a confirmation.
        auto_class: Name of the transformers class that loads the task's base model.
        folder: Where the adapter lies, or its id on the hub.
        sub_folders: Of a plan with several configs, in the order in which they are loaded.
        imports: Modules that tell `peft` about a method of autopeft.
        source: Where to load the base model from; None is where the run did.
    """
    setting, revision = result.setting, result.spec.model.revision
    source = source or setting.base_model_source
    path = PurePath(source)
    is_gguf = path.suffix == ".gguf"
    reads_images = auto_class == _IMAGE_CLASS
    return render(
        "load_adapter.py",
        is_mix=len({adapter.method for adapter in result.best.adapters}) > 1,
        is_in_memory=source == IN_MEMORY,
        auto_class=auto_class,
        reads_images=reads_images,
        loader="AutoImageProcessor" if reads_images else "AutoTokenizer",
        source=json.dumps(str(path.parent) if is_gguf else source, ensure_ascii=False),
        gguf_file=json.dumps(path.name, ensure_ascii=False) if is_gguf else "",
        pinned=f", revision={json.dumps(revision)}" if revision else "",
        n_labels=len(setting.label_names),
        quantised=_quantisation(result),
        folder=folder,
        sub_folders=list(sub_folders),
        imports=list(imports),
    )


def _quantisation(result: SearchResult) -> dict[str, str]:
    """Arguments of the quantisation that the adapter was trained on, as code; empty if there was none."""
    bits = result.spec.model.quantize
    if bits == "none":
        return {}
    fields: dict[str, Any] = {**QUANTISED[bits], "llm_int8_skip_modules": list(result.setting.unquantised)}
    if bits == "4bit":
        fields["bnb_4bit_compute_dtype"] = result.spec.execution.dtype
    return {name: repr(value) for name, value in fields.items()}
