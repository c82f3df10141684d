"""A base model that is in memory already: checked, and after use as it was before."""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
import transformers
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from autopeft.errors import ModelError
from autopeft.model.base import BaseModel
from autopeft.model.loading import require_causal, require_sites, require_words
from autopeft.model.quantising import steady
from autopeft.model.shapes import n_bits
from autopeft.records import IN_MEMORY

_CAUSAL, _CHOICE = "AutoModelForCausalLM", "AutoModelForMultipleChoice"  # of the latter every head gives 1
_IMAGES = "AutoModelForImageClassification"

log = logging.getLogger(__name__)


def from_memory(
    module: nn.Module, tokenizer: Any, *, auto_class: str, label_names: Sequence[str]
) -> BaseModel:
    """A module of the user as a base model, where it lies; frozen from now on (see `lent`).

    Args:
        module: A transformers model with the task's head, of as many outputs as there are labels.
        tokenizer: Its tokenizer, or of images its processor; left as it is.
        auto_class: Name of the transformers class that the task would load.
        label_names: The labels of the task, in order; none for a language model.

    Raises:
        ModelError: It has no config, another head, adapters or other numbers than float32, or the
            tokenizer is missing.
        SiteError: The model has no linear map or norm to adapt.
    """
    require_plain(module)
    name = name_of(module)
    _require_head(module, auto_class, label_names)
    own_tokenizer = _checked(tokenizer, name, reads_images=auto_class == _IMAGES)
    pad_token_id = getattr(own_tokenizer, "pad_token_id", None)
    if pad_token_id is not None:
        cast(Any, module).config.pad_token_id = pad_token_id
    base = BaseModel(module, own_tokenizer, name=name, untrained=frozenset())
    if auto_class == _CAUSAL:
        require_causal(module, name)
    require_sites(base)
    return base


@contextlib.contextmanager
def lent(module: nn.Module) -> Iterator[None]:
    """Afterwards flags, gradients and the padding token of a module are as they were, whatever happens.

    Its weights are not copied: `BaseModel.attached` sees to it that they stay.
    """
    put_back, unsteady = noted(module), steady(module)
    try:
        yield
    finally:
        unsteady()
        put_back()


def noted(module: nn.Module) -> Callable[[], None]:
    """What puts back the flags, gradients and padding token that a module has now."""
    flags = [(parameter, parameter.requires_grad, parameter.grad) for parameter in module.parameters()]
    modes = [(child, child.training) for child in module.modules()]
    config = vars(cast(Any, module).config).copy()

    def put_back() -> None:
        for child, training in modes:
            child.training = training
        for parameter, requires_grad, gradient in flags:
            parameter.requires_grad = requires_grad
            parameter.grad = gradient
        if "pad_token_id" in config:
            cast(Any, module).config.pad_token_id = config["pad_token_id"]
        else:
            vars(cast(Any, module).config).pop("pad_token_id", None)

    return put_back


def name_of(module: nn.Module) -> str:
    """What a module was loaded from, else its class."""
    return str(getattr(getattr(module, "config", None), "_name_or_path", "") or type(module).__name__)


def source_of(module: nn.Module) -> str:
    """What a module was loaded from, as far as it knows."""
    return str(getattr(getattr(module, "config", None), "_name_or_path", "") or IN_MEMORY)


def require_plain(module: nn.Module) -> None:
    """Refuse what is no transformers model, has adapters by now, or other numbers than float32.

    Raises:
        ModelError: So it is.
    """
    kind = type(module).__name__
    if not isinstance(module, nn.Module) or not hasattr(module, "config"):
        raise ModelError(f"The model is a {kind}; pass a transformers model, a hub id or a directory.")
    if any(isinstance(child, BaseTunerLayer) for child in module.modules()) or hasattr(module, "peft_config"):
        raise ModelError(
            f"The {kind} holds adapters of peft already; pass the base model without them (model.unload())."
        )
    plain = [child for child in module.modules() if not n_bits(child)]
    own = [parameter for child in plain for parameter in child.parameters(recurse=False)]
    numbers = {parameter.dtype for parameter in own if parameter.is_floating_point()}
    if numbers - {torch.float32}:
        other = str(min(numbers - {torch.float32}, key=str)).removeprefix("torch.")
        raise ModelError(
            f"The {kind} in memory has weights in {other}; training here is in float32, pass model.float(), "
            "or load a quantised one with dtype=torch.float32."
        )
    if any(parameter.is_meta for parameter in module.parameters()):
        raise ModelError(f"The {kind} in memory has no weights (meta tensors); load them first.")


def _require_head(module: nn.Module, auto_class: str, label_names: Sequence[str]) -> None:
    kind, config = type(module), cast(Any, module).config
    mapping = getattr(getattr(transformers, auto_class), "_model_mapping", {})
    fitting = mapping.get(type(config), ())
    is_foreign = not kind.__module__.startswith("transformers.")  # a class of the user's; trying it tells
    if fitting and not is_foreign and not issubclass(kind, fitting):
        raise ModelError(f"The model in memory is a {kind.__name__}; the task needs one of {auto_class}.")
    if not label_names or auto_class == _CHOICE:
        return
    n_outputs = int(getattr(config, "num_labels", 0))
    if n_outputs != len(label_names):
        raise ModelError(
            f"The {kind.__name__} in memory has {n_outputs} outputs, the data has {len(label_names)} labels; "
            f"load it with num_labels={len(label_names)}."
        )
    own = [str((config.id2label or {}).get(index, "")) for index in range(n_outputs)]
    if own != list(label_names) and set(own) == set(label_names):
        log.warning(
            "The model in memory orders its labels %s, this run %s: trained heads have the run's order.",
            ", ".join(own),
            ", ".join(label_names),
        )


def _checked(tokenizer: Any, name: str, *, reads_images: bool) -> Any:
    """The tokenizer with a padding token; a copy where it had none."""
    if tokenizer is None:
        what = "image processor" if reads_images else "tokenizer"
        raise ModelError(f"{name} is in memory and its {what} is not; pass it as tokenizer=.")
    if reads_images:
        return tokenizer
    require_words(tokenizer, name)
    if tokenizer.pad_token_id is not None:
        return tokenizer
    own = copy.deepcopy(tokenizer)
    own.pad_token = own.eos_token
    log.info("%s has no padding token; its end-of-text token pads.", name)
    return own
