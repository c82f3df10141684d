"""Python that loads the trained adapter, with transformers and peft alone where no part needs more."""

from __future__ import annotations

import json
from pathlib import PurePath
from typing import Any

from autopeft.records import IN_MEMORY, QUANTISED, SearchResult, TrainedPlan
from autopeft.report.rendering import render
from autopeft.report.words import PartWords

BEST_WEIGHTS = "best/weights"  # in the folder of a run
_IMAGE_CLASS = "AutoModelForImageClassification"  # its base models come with an image processor, no tokenizer


def python_lines(
    result: SearchResult | TrainedPlan,
    words: PartWords,
    *,
    folder: str = BEST_WEIGHTS,
    source: str | None = None,
) -> str:
    """Lines to paste that load the confirmed adapter, by default in the folder of the run.

    Args:
        result: A search with a confirmation, or a plan that was trained.
        words: The class that loads the task's base model, and how the weights lie in their folder.
        folder: Where the adapter lies (`best/weights`, or from `./` on), or its id on the hub.
        source: Where to load the base model from; None is where the run did.
    """
    auto_class, weights = words.auto_class, words.weights
    setting, revision = result.setting, result.spec.model.revision
    source = source or setting.base_model_source
    path = PurePath(source)
    is_gguf = path.suffix == ".gguf"
    reads_images = auto_class == _IMAGE_CLASS
    return render(
        "load_adapter.py",
        is_on_hub=folder != BEST_WEIGHTS and not folder.startswith("./"),
        is_stacked=weights.n_unmerged > 1,
        is_in_memory=source == IN_MEMORY,
        is_bare=weights.is_bare,
        auto_class=auto_class,
        reads_images=reads_images,
        loader="AutoImageProcessor" if reads_images else "AutoTokenizer",
        source=json.dumps(str(path.parent) if is_gguf else source, ensure_ascii=False),
        gguf_file=json.dumps(path.name, ensure_ascii=False) if is_gguf else "",
        pinned=f", revision={json.dumps(revision)}" if revision else "",
        n_labels=len(setting.label_names),
        quantised=_quantisation(result),
        folder=folder,
        sub_folders=list(weights.order),
        imports=list(weights.imports),
    )


def load_sentence(result: SearchResult | TrainedPlan, words: PartWords) -> str:
    """What the lines of `python_lines` load, and the packages that they need."""
    weights, head = words.weights, ", head included" if result.setting.head_params else ""
    others = {name.partition(".")[0] for name in weights.imports}
    others |= {"autopeft"} if weights.n_unmerged > 1 else set()
    packages = ["transformers", "peft", *sorted(others)]
    alone = "" if others else " alone"
    return (
        f"These lines load the adapter that the confirmation trained{head}, with "
        f"{', '.join(packages[:-1])} and {packages[-1]}{alone}:"
    )


def _quantisation(result: SearchResult | TrainedPlan) -> dict[str, str]:
    """Arguments of the quantisation that the adapter was trained on, as code; empty if there was none."""
    bits = result.spec.model.quantize
    if bits == "none":
        return {}
    fields: dict[str, Any] = {**QUANTISED[bits], "llm_int8_skip_modules": list(result.setting.unquantised)}
    if bits == "4bit":
        fields["bnb_4bit_compute_dtype"] = result.spec.execution.dtype
    return {name: repr(value) for name, value in fields.items()}
