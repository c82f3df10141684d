"""The cache of keys and values: language models fill it by default, also where no token follows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from peft import PeftModel
from torch import nn


@contextlib.contextmanager
def without_cache(model: nn.Module) -> Iterator[None]:
    """A context in which forward passes fill no cache unless they are asked to, as `generate` does.

    It costs a copy of all keys and values, and layers that fill it cannot be skipped or checkpointed.
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
