"""Counts how many tokens the routers of a mixture of experts send to each expert."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from autopeft.model.components import components
from autopeft.plugins import Batch


def count_routing(
    model: nn.Module, batches: Iterable[Batch], forward: Callable[[Batch], object]
) -> dict[str, tuple[int, ...]]:
    """Return the tokens of each expert, without padding, by the module that holds a layer's experts.

    The module gets the chosen experts of each token from the router, as whole numbers (tokens, experts per
    token). Llama 4, JetMoe and models with a module for each expert pass something else; their layers are
    left out.
    """
    counts: dict[str, Tensor] = {}
    mask: Tensor | None = None

    def count(name: str, n_experts: int, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        inputs = [*args, *kwargs.values()]
        for chosen in inputs:
            if isinstance(chosen, Tensor) and chosen.dtype == torch.long and chosen.ndim == 2:
                kept = chosen if mask is None else chosen[mask.flatten().bool().to(chosen.device)]
                # LongCat numbers experts without weights after the others
                found = kept.flatten().bincount(minlength=n_experts)[:n_experts].cpu()
                counts[name] = counts[name] + found if name in counts else found

    with contextlib.ExitStack() as stack:
        for name, component in components(model).items():
            stacked = [each for each in model.get_submodule(name).parameters() if each.ndim == 3]
            if component == "routed_experts" and stacked:
                hook = partial(count, name, len(stacked[0]))
                experts = model.get_submodule(name)
                stack.callback(experts.register_forward_pre_hook(hook, with_kwargs=True).remove)
        for batch in batches:
            mask = batch.get("attention_mask")
            forward(batch)
    return {name: tuple(found.tolist()) for name, found in counts.items()}
