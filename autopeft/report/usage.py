"""Python that loads the trained adapter with transformers and peft alone."""

from __future__ import annotations

import json
from typing import Any

from autopeft.records import IN_MEMORY, QUANTISED, SearchResult
from autopeft.report.rendering import render

_IMAGE_CLASS = "AutoModelForImageClassification"  # its base models come with an image processor, no tokenizer


def python_lines(result: SearchResult, auto_class: str) -> str:
    """Lines to paste, with the run's folder as the working directory, after a confirmation.

    `auto_class` names the transformers class that loads the task's base model.
    """
    setting, revision = result.setting, result.spec.model.revision
    reads_images = auto_class == _IMAGE_CLASS
    return render(
        "load_adapter.py",
        is_mix=len({adapter.method for adapter in result.best.adapters}) > 1,
        is_in_memory=setting.base_model_source == IN_MEMORY,
        auto_class=auto_class,
        reads_images=reads_images,
        loader="AutoImageProcessor" if reads_images else "AutoTokenizer",
        source=json.dumps(setting.base_model_source, ensure_ascii=False),
        pinned=f", revision={json.dumps(revision)}" if revision else "",
        n_labels=len(setting.label_names),
        quantised=_quantisation(result),
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
