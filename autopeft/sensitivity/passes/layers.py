"""Inputs and outputs of whole layers while a model runs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeGuard

from torch import Tensor, nn

from autopeft.records import Site
from autopeft.sensitivity.parts.layers import sites_by_layer


@contextlib.contextmanager
def watching_layers(
    model: nn.Module,
    sites: Sequence[Site],
    on_layer: Callable[[Sequence[Site], nn.Module, Tensor, Tensor], None],
) -> Iterator[None]:
    """Call `on_layer` with a layer's sites, its module, its input and its output, at each call of the layer.

    A layer's input is its first argument, its output the first that it returns. Calls in which either is no
    tensor of features are left out.
    """

    def hook(
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        output: Any,
        *,
        layer_sites: Sequence[Site],
    ) -> None:
        inputs = args[0] if args else kwargs.get("hidden_states")
        first = output[0] if isinstance(output, tuple) and output else output
        if _has_features(inputs) and _has_features(first):
            on_layer(layer_sites, module, inputs, first)

    with contextlib.ExitStack() as hooks:
        for name, layer_sites in sites_by_layer(sites).items():
            module = model.get_submodule(name)
            watch = partial(hook, layer_sites=layer_sites)
            hooks.callback(module.register_forward_hook(watch, with_kwargs=True).remove)
        yield


def _has_features(value: Any) -> TypeGuard[Tensor]:
    return isinstance(value, Tensor) and value.ndim >= 2 and value.is_floating_point()
