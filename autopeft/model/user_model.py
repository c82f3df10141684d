"""Uses a model that the user passes in memory as a base model, and restores it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
import transformers
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from autopeft.errors import ModelError
from autopeft.model.attaching import note_state
from autopeft.model.base import BaseModel
from autopeft.model.checkpoint_source import loading_class, reads_images
from autopeft.model.checks import pad_with, prepare_base, text_configs, usable_tokenizer
from autopeft.model.components import head_names
from autopeft.model.devices import Precision, make_current
from autopeft.model.linear_layers import n_bits
from autopeft.model.quantization import stop_mutation, widen_norms
from autopeft.model.weight_comparison import compare_with_checkpoint
from autopeft.types import Component

_FLAGS = ("support_avx512bf16_for_cpu", "compute_dtype")  # those that `stop_mutation` sets


def from_memory(
    module: nn.Module,
    tokenizer: Any,
    *,
    auto_class: str,
    label_names: Sequence[str],
    precision: Precision,
    components: Sequence[Component] = (),
) -> BaseModel:
    """Make a base model of the user's module, which stays frozen until `restoring` ends.

    Forward passes compute in `precision`; the weights keep their format, and the tokenizer is not changed.
    `auto_class` names the transformers class that the task would load. A language model has no label names.
    Raises ModelError or TargetError for a model that cannot be used as it is.
    """
    require_plain(module)
    make_current(next(module.parameters()).device)
    name = loaded_from(module) or type(module).__name__
    _require_fitting_head(module, auto_class, label_names)
    needs_images = reads_images(auto_class)
    if tokenizer is None:
        kind = "image processor" if needs_images else "tokenizer"
        raise ModelError(f"A model in memory needs its {kind}; pass it as tokenizer=.")
    if not needs_images:
        tokenizer = usable_tokenizer(tokenizer, name)
        pad_with(cast(Any, module).config, tokenizer.pad_token_id)
    untrained, _ = compare_with_checkpoint(module, name, exclude=head_names(module))
    base = BaseModel(
        module,
        tokenizer,
        name=name,
        untrained=untrained,
        precision=precision,
        is_in_memory=True,
        components=components,
    )
    prepare_base(base, auto_class=auto_class)
    return base


@contextlib.contextmanager
def restoring(module: nn.Module) -> Iterator[None]:
    """Restore modules, flags, gradients and padding token of a module when the context ends.

    Weights are not copied, since `BaseModel.attached` leaves them unchanged. Inside the context a quantized
    model is changed as `load` changes one.
    """
    restore = note_state(module)
    configs = [vars(config) for config in text_configs(cast(Any, module).config)]
    padding = [{n: value for n, value in config.items() if n == "pad_token_id"} for config in configs]
    layers = [vars(child) for child in module.modules() if n_bits(child)]
    flags = [{name: layer[name] for name in _FLAGS if name in layer} for layer in layers]
    stop_mutation(module, scales_gradients=narrow_format_of(module) == "float16")
    if any(map(n_bits, module.modules())):
        widen_norms(module)
    try:
        yield
    finally:
        restore()
        for layer, original in zip(layers, flags, strict=True):
            layer.update(original)
        for config, original in zip(configs, padding, strict=True):
            config.pop("pad_token_id", None)
            config.update(original)


def loaded_from(module: nn.Module) -> str:
    """Return the hub id or path that a module was loaded from; empty if it was not loaded."""
    return str(getattr(getattr(module, "config", None), "_name_or_path", "") or "")


def narrow_format_of(module: nn.Module) -> str | None:
    """Return the 16-bit format of weights that are not quantized, else None."""
    formats = _formats(module)
    return next((name for name in ("bfloat16", "float16") if getattr(torch, name) in formats), None)


def require_plain(module: nn.Module) -> None:
    """Raise ModelError for a module that cannot be adapted as it is.

    That is one that is wrapped by torch.compile or for several devices, that has adapters, or that has floats
    other than float32 and one 16-bit format outside bitsandbytes layers.
    """
    kind = type(module).__name__
    inner = next((name for name in ("_orig_mod", "module") if name in getattr(module, "_modules", {})), None)
    if inner is not None:
        raise ModelError(f"The model is wrapped in {kind}; pass the model inside, which is model.{inner}.")
    if not isinstance(module, nn.Module) or not hasattr(module, "config"):
        raise ModelError(f"The model is a {kind}; pass a transformers model, a hub id or a directory.")
    if any(isinstance(child, BaseTunerLayer) for child in module.modules()) or hasattr(module, "peft_config"):
        raise ModelError(
            f"The {kind} has adapters of peft already; pass the base model without them (model.unload())."
        )
    formats = _formats(module)
    if refused := formats - {torch.float32, torch.bfloat16 if torch.bfloat16 in formats else torch.float16}:
        dtype = str(min(refused, key=str)).removeprefix("torch.")
        raise ModelError(
            f"The {kind} in memory has weights in {dtype}; training here is in float32, bfloat16 or float16, "
            "pass model.float() or model.bfloat16(), or load a quantized one with dtype=torch.float32."
        )


def _formats(module: nn.Module) -> set[torch.dtype]:
    plain = [child for child in module.modules() if not n_bits(child)]
    parameters = [parameter for child in plain for parameter in child.parameters(recurse=False)]
    return {parameter.dtype for parameter in parameters if parameter.is_floating_point()}


def _require_fitting_head(module: nn.Module, auto_class: str, label_names: Sequence[str]) -> None:
    """Raise ModelError for a head of another task or size."""
    kind, config = type(module), cast(Any, module).config
    auto_class = loading_class(config, auto_class)
    task_classes = getattr(getattr(transformers, auto_class), "_model_mapping", {}).get(type(config), ())
    is_custom = not kind.__module__.startswith("transformers.")  # may fit; the first forward shows it
    if task_classes and not is_custom and not issubclass(kind, task_classes):
        raise ModelError(f"The model in memory is a {kind.__name__}; the task needs one of {auto_class}.")
    if not label_names:
        return
    n_outputs = int(getattr(config, "num_labels", 0))
    if n_outputs != len(label_names):
        raise ModelError(
            f"The {kind.__name__} in memory has {n_outputs} outputs, the data has {len(label_names)} labels; "
            f"load it with num_labels={len(label_names)}."
        )
