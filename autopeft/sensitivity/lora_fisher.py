"""LoRA Fisher: the trace of the empirical Fisher of a LoRA's B where it begins, at B = 0."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from autopeft.extension import Reducer
from autopeft.records import Site
from autopeft.sensitivity._draws import generator
from autopeft.sensitivity._fisher import norm_fisher
from autopeft.sensitivity._gradients import expert_maps, squares_of_products
from autopeft.sensitivity._sums import Sums

RANK = 8


@dataclass(frozen=True)
class LoraFisher:
    """Summed squared per-example gradients of B (out, r) at B = 0, ‖Σ_t δ_t (A x_t)ᵀ‖².

    Exact for what LoRA trains first (A has no gradient there), at any length, for T r (in + out) operations.
    A is drawn as `peft` draws it, rank 8, by the seed and the site's name. The scale alpha / r is left
    at 1: it would multiply all sites alike. Of norms it is the Fisher of what norm tuning trains; experts in
    one parameter get an A each, and the batch's gradient is squared.

    Source: this project; FIM-LoRA, arXiv:2605.16800, sums the same over whole batches.
    """

    name: str = "lora_fisher"
    summary: str = "trace of the empirical Fisher of LoRA's B at its start"
    unit: str = "(loss per unit of weight) squared"
    labels: str = "true"

    def reducer(self, sites: Sequence[Site], *, seed: int) -> Reducer:
        """Site name -> sum over B's weights of grad², averaged over examples, >= 0."""
        return Sums(_term(seed))


def initial_a(site: Site, *, seed: int, copy: int = 0) -> torch.Tensor:
    """The A of a site, shape (r, in), by `peft`'s rule: uniform within ± 1 / sqrt(in)."""
    bound = 1 / math.sqrt(site.in_features)  # kaiming_uniform with a = sqrt(5)
    drawn = torch.rand(RANK, site.in_features, generator=generator(seed, site.name, copy))
    return (2 * drawn - 1) * bound


def _term(seed: int) -> Callable[[Site, nn.Module, torch.Tensor, torch.Tensor], torch.Tensor]:
    known: dict[str, torch.Tensor] = {}

    def term(site: Site, module: nn.Module, inputs: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        if site.kind == "norm":
            return norm_fisher(module, inputs, gradient)
        if site.name not in known:
            drawn = [initial_a(site, seed=seed, copy=copy) for copy in range(site.copies)]
            known[site.name] = torch.stack(drawn).to(gradient)
        a = known[site.name].transpose(1, 2)
        if site.kind == "parameter":
            return (expert_maps(site, module, gradient) @ a).square().sum()
        return squares_of_products(inputs @ a[0], gradient).sum()  # (r, out), which is faster

    return term


PART = LoraFisher()
