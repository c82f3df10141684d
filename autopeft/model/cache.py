"""The cache of keys and values: language models fill it by default, also where no token follows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from peft import PeftModel, PeftType
from torch import nn

_PREFIXES = (PeftType.PREFIX_TUNING, PeftType.CARTRIDGE)


def needs_cache(model: nn.Module) -> bool:
    """Whether adapters are given to the layers of a model as a cache."""
    configs = model.peft_config.values() if isinstance(model, PeftModel) else ()
    return any(config.peft_type in _PREFIXES for config in configs)


@contextlib.contextmanager
def without_cache(model: nn.Module) -> Iterator[None]:
    """A context in which forward passes fill no cache unless they are asked to, as `generate` does.

    It costs a copy of all keys and values, and layers that fill it cannot be skipped or checkpointed. A model
    that needs its cache keeps it.
    """
    config = getattr(model.get_base_model() if isinstance(model, PeftModel) else model, "config", None)
    before = getattr(config, "use_cache", None)
    if not before or needs_cache(model):
        yield
        return
    config.use_cache = False  # type: ignore[union-attr]
    try:
        yield
    finally:
        config.use_cache = before  # type: ignore[union-attr]
