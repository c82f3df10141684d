"""Forward passes that keep less: no cache, and of checkpointed layers, computed twice, the inputs alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial

from peft import PeftModel
from torch import nn
from torch.utils.checkpoint import checkpoint

# What transformers' layers look at in training mode. They are set here, since the methods of the model that
# set them were renamed in transformers 5.
_SWITCH, _FUNCTION = "gradient_checkpointing", "_gradient_checkpointing_func"


def can_checkpoint(model: nn.Module) -> bool:
    """Whether the layers of a base model, or of one with adapters, may be checkpointed."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    return bool(getattr(base, "supports_gradient_checkpointing", False)) and bool(_switches(base))


@contextlib.contextmanager
def checkpointed(model: nn.Module) -> Iterator[None]:
    """A context in which the layers of a model in training mode are checkpointed; dropout draws repeat."""
    names = (_SWITCH, _FUNCTION)
    before = [
        (module, {name: vars(module)[name] for name in names if name in vars(module)})
        for module in _switches(model)
    ]
    try:
        for module, _ in before:
            setattr(module, _SWITCH, True)
            setattr(module, _FUNCTION, partial(checkpoint, use_reentrant=False))
        with without_cache(model):  # of which transformers would warn
            yield
    finally:
        for module, attributes in before:
            for name in names:
                vars(module).pop(name, None)
            vars(module).update(attributes)


def _switches(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if hasattr(module, _SWITCH)]


@contextlib.contextmanager
def without_cache(model: nn.Module) -> Iterator[None]:
    """A context in which forward passes fill no cache unless they are asked to, as `generate` does.

    Language models fill it by default, also where no token follows. It costs a copy of all keys and values,
    and layers that fill it cannot be skipped or checkpointed.
    """
    config = getattr(model.get_base_model() if isinstance(model, PeftModel) else model, "config", None)
    before = getattr(config, "use_cache", None)
    if not before:
        yield
        return
    config.use_cache = False  # type: ignore[union-attr]
    try:
        yield
    finally:
        config.use_cache = before  # type: ignore[union-attr]
