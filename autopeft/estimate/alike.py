"""Whether the layers of a model are alike, so that a few of them tell of all."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from torch import nn

from autopeft.adapters import Count
from autopeft.estimate.phases import repeated_layers
from autopeft.estimate.scaling import DEPTHS


def n_alike(module: nn.Module, kept: Sequence[str]) -> int | None:
    """The number of a model's layers where all have the same tensors; None where they may differ.

    `kept` are the maps that a quantised checkpoint holds in plain numbers.
    """
    layers = repeated_layers(module)
    config: Any = module.config
    n_layers = getattr(config.get_text_config(), "num_hidden_layers", None)
    if layers is None or len(layers) != n_layers or len(layers) <= DEPTHS[-1] or config.is_encoder_decoder:
        return None
    plain = {id(module.get_submodule(name)) for name in kept}
    kinds = {(_shapes(layer), _names(layer, plain)) for layer in layers}
    return n_layers if len(kinds) == 1 else None


def _shapes(layer: nn.Module) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple((name, tuple(parameter.shape)) for name, parameter in layer.named_parameters())


def _names(layer: nn.Module, ids: Collection[int]) -> tuple[str, ...]:
    return tuple(name for name, child in layer.named_modules() if id(child) in ids)


def is_even(count: Count, n_layers: int) -> bool:
    """Whether all layers train equally many parameters, or none."""
    by_layer = [n for layer, n in count.by_layer.items() if layer.isdigit()]
    return not by_layer or (len(by_layer) == n_layers and len(set(by_layer)) == 1)
