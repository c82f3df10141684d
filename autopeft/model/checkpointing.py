"""Gradient checkpointing: layers keep their inputs alone, and are computed again in the backward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial

from peft import PeftModel, PeftType
from torch import nn
from torch.utils.checkpoint import checkpoint

# What transformers' layers look at in training mode. They are set here, since the methods of the model that
# set them were renamed in transformers 5.
_SWITCH, _FUNCTION = "gradient_checkpointing", "_gradient_checkpointing_func"
_FILL_THE_CACHE = (PeftType.PREFIX_TUNING, PeftType.CARTRIDGE)  # a checkpointed layer drops what it is given


def can_checkpoint(model: nn.Module) -> bool:
    """Whether the layers of a base model, or of one with adapters, may be checkpointed."""
    config = model.active_peft_config if isinstance(model, PeftModel) else None
    if config is not None and config.peft_type in _FILL_THE_CACHE:
        return False
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    return bool(getattr(base, "supports_gradient_checkpointing", False)) and bool(_switches(base))


@contextlib.contextmanager
def checkpointed(model: nn.Module) -> Iterator[None]:
    """A context in which the layers of a model in training mode are checkpointed; dropout draws repeat."""
    switches, config = _switches(model), getattr(model, "config", None)
    before = [
        (module, {n: vars(module)[n] for n in (_SWITCH, _FUNCTION) if n in vars(module)})
        for module in switches
    ]
    uses_cache = getattr(config, "use_cache", None)
    try:
        for module in switches:
            setattr(module, _SWITCH, True)
            setattr(module, _FUNCTION, partial(checkpoint, use_reentrant=False))
        if uses_cache:  # else transformers warns that it leaves the cache out
            config.use_cache = False  # type: ignore[union-attr]
        yield
    finally:
        for module, attributes in before:
            for name in (_SWITCH, _FUNCTION):
                vars(module).pop(name, None)
            vars(module).update(attributes)
        if uses_cache:
            config.use_cache = uses_cache  # type: ignore[union-attr]


def _switches(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if hasattr(module, _SWITCH)]
