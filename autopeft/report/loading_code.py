"""Python lines that load a trained adapter with plain `peft`."""

from __future__ import annotations

import json
from pathlib import PurePath
from typing import Any

from autopeft.report.formatting import render
from autopeft.report.plan_names import PartWords
from autopeft.types import IN_MEMORY, QUANTIZED, SearchResult, TrainedPlan

BEST_WEIGHTS = "best/weights"  # in the folder of a run
_IMAGE_CLASS = "AutoModelForImageClassification"  # its base models come with an image processor, no tokenizer


def python_lines(
    result: SearchResult | TrainedPlan,
    words: PartWords,
    *,
    folder: str = BEST_WEIGHTS,
    source: str | None = None,
) -> str:
    """Return Python lines that load the trained adapter, by default for use in the folder of the run.

    `folder` is the adapter's (`best/weights`, or a path that begins with `./`), or its id on the hub.
    `source` is where to load the base model from; None takes the source of the run.
    """
    auto_class, weights = result.setting.auto_class or words.auto_class, words.weights
    setting, revision, bits = result.setting, result.spec.model.revision, result.spec.model.quantize
    quantized: dict[str, Any] = {}
    if bits != "none":
        quantized = {**QUANTIZED[bits], "llm_int8_skip_modules": list(setting.unquantized)}
        if bits == "4bit":
            quantized["bnb_4bit_compute_dtype"] = result.spec.execution.dtype
    source = source or setting.base_model_source
    path = PurePath(source)
    is_gguf = path.suffix == ".gguf"
    reads_images = auto_class == _IMAGE_CLASS
    return render(
        "load_adapter.py",
        is_in_memory=source == IN_MEMORY,
        auto_class=auto_class,
        reads_images=reads_images,
        loader="AutoImageProcessor" if reads_images else "AutoTokenizer",
        source=json.dumps(str(path.parent) if is_gguf else source, ensure_ascii=False),
        gguf_file=json.dumps(path.name, ensure_ascii=False) if is_gguf else "",
        pinned=f", revision={json.dumps(revision)}" if revision else "",
        n_labels=len(setting.label_names),
        has_config=not result.spec.has_own_trainer,
        quantized={name: repr(value) for name, value in quantized.items()},
        folder=folder,
        tokenizer="name" if result.spec.has_own_trainer else json.dumps(folder),
        sub_folders=list(weights.order),
        imports=list(weights.imports),
    )
