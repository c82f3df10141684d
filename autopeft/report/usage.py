"""Python that loads the trained adapter with transformers and peft alone."""

from __future__ import annotations

import json

from autopeft.records import IN_MEMORY, QUANTISED, SearchResult

_IMAGE_CLASS = "AutoModelForImageClassification"  # its base models come with an image processor, no tokenizer


def python_lines(result: SearchResult, auto_class: str) -> str:
    """Lines to paste; they expect the run's folder as the working directory.

    Args:
        result: Of a search with a confirmation, which leaves `best/weights`.
        auto_class: Name of the transformers class that loads the task's base model.
    """
    mixes = len({adapter.method for adapter in result.best.adapters}) > 1
    lines = (
        ["# This plan mixes methods: load one sub-folder after the other, by the README's lines."]
        if mixes
        else []
    )
    lines += ["from peft import PeftModel"]
    if result.setting.base_model_source == IN_MEMORY:
        lines += ["", "# base_model: the model in memory that was passed to the search"]
    else:
        lines += _base_model_lines(result, auto_class)
    lines += ['model = PeftModel.from_pretrained(base_model, "best/weights").eval()']
    return "\n".join(lines) + "\n"


def _base_model_lines(result: SearchResult, auto_class: str) -> list[str]:
    setting, revision = result.setting, result.spec.model.revision
    name, loader = (
        ("processor", "AutoImageProcessor") if auto_class == _IMAGE_CLASS else ("tokenizer", "AutoTokenizer")
    )
    pinned = f", revision={json.dumps(revision)}" if revision else ""
    labels = f", num_labels={len(setting.label_names)}" if setting.label_names else ""
    quantised = _quantised_lines(result)
    config = ", quantization_config=in_few_bits" if quantised else ""
    return [
        f"from transformers import {auto_class}, {loader}{', BitsAndBytesConfig' if quantised else ''}",
        "",
        f"name = {json.dumps(setting.base_model_source, ensure_ascii=False)}",
        f"{name} = {loader}.from_pretrained(name{pinned})",
        *quantised,
        f"base_model = {auto_class}.from_pretrained(name{pinned}{labels}{config})",
    ]


def _quantised_lines(result: SearchResult) -> list[str]:
    """The quantisation of the base model that the adapter was trained on; empty if it was not quantised."""
    bits = result.spec.model.quantize
    if bits == "none":
        return []
    fields = {**QUANTISED[bits], "llm_int8_skip_modules": list(result.setting.unquantised)}
    if bits == "4bit":
        fields["bnb_4bit_compute_dtype"] = result.spec.execution.dtype
    return ["in_few_bits = BitsAndBytesConfig(", *(f"    {k}={v!r}," for k, v in fields.items()), ")"]
