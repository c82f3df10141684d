"""Autocast as a GPU has it, where a step is replayed on tensors of a CPU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn import functional


@contextlib.contextmanager
def gpu_autocast() -> Iterator[None]:
    """A context in which autocast computes LayerNorm in float32, and so gives float32, as it does on a GPU.

    On a CPU it keeps the number format of the inputs. RMSNorm is the model's own code, alike on both. A
    function is replaced, as no mode of torch lasts in a backward pass, where checkpointing computes anew.
    """
    plain = functional.layer_norm

    def layer_norm(*args: Any, **kwargs: Any) -> torch.Tensor:
        if torch.is_autocast_enabled("cpu"):
            args, kwargs = tuple(map(_widened, args)), {name: _widened(each) for name, each in kwargs.items()}
        return plain(*args, **kwargs)

    functional.layer_norm = layer_norm
    try:
        yield
    finally:
        functional.layer_norm = plain


def _widened(value: Any) -> Any:
    return value.float() if isinstance(value, torch.Tensor) else value
