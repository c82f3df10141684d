"""Sparse attention, which BigBird gives up for good at the first text that is too short for its blocks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, cast

from torch import nn


@contextlib.contextmanager
def keeping_attention(module: nn.Module) -> Iterator[None]:
    """A context after which a model attends as before, whatever short texts it has read meanwhile."""
    choosing = [cast(Any, child) for child in module.modules() if hasattr(child, "set_attention_type")]
    before = [(child, child.attention_type) for child in choosing if hasattr(child, "attention_type")]
    try:
        yield
    finally:
        for child, attention_type in before:
            child.set_attention_type(attention_type)
