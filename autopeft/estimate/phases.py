"""The phases of a training step, separated by hooks on the layers of a model.

In a phase memory rises or falls by as much at every layer, so that its peak is a straight line of the number
of layers, from three layers on. The peak of a whole step is not: it is the highest of these lines.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import nn

from autopeft.estimate.living_bytes import LivingBytes

FORWARD, HEAD = "forward pass", "output layer and loss"
LAST_LAYER, UPPER_LAYERS, FIRST_LAYER = "backward, last layer", "backward, layers", "backward, first layer"
BACKWARD, OPTIMIZER = "backward pass", "optimizer step"  # a whole backward pass, where no layers are known


def repeated_layers(model: nn.Module) -> nn.ModuleList | None:
    """The layers of a model: its last list of two or more modules of one class; None where it has none."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) > 1]
    stacks = [layers for layers in lists if len({type(layer) for layer in layers}) == 1]
    return max(stacks, key=lambda layers: sum(p.numel() for p in layers.parameters()), default=None)


@contextlib.contextmanager
def tracking_phases(model: nn.Module, living: LivingBytes) -> Iterator[None]:
    """A context in which hooks on the layers of a model note when one phase ends and the next begins."""
    layers = repeated_layers(model)
    if layers is None:
        yield
        return
    handles = [
        layers[-1].register_forward_hook(partial(_leaves_body, living)),
        layers[0].register_forward_hook(partial(_expects, living, FIRST_LAYER)),
        layers[-2].register_forward_hook(partial(_expects, living, UPPER_LAYERS)),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _leaves_body(living: LivingBytes, layer: nn.Module, inputs: Any, outputs: Any) -> None:
    if living.phase == FORWARD:  # not where a checkpointed layer is computed again
        _expects(living, LAST_LAYER, layer, inputs, outputs)
        living.enter(HEAD)


def _expects(living: LivingBytes, phase: str, layer: nn.Module, inputs: Any, outputs: Any) -> None:
    """Begin a phase once the gradient of a layer's outputs is there, where they have one."""
    hidden = outputs[0] if isinstance(outputs, tuple) else outputs
    if living.phase == FORWARD and isinstance(hidden, torch.Tensor) and hidden.requires_grad:
        hidden.register_hook(lambda gradient: living.enter(phase))  # type: ignore[no-untyped-call]
