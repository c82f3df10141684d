"""LoRA Fisher: the trace of the empirical Fisher of a LoRA's B at its start, B = 0.

The value is the sum of the squared per-example gradients of B (out, r), ‖Σ_t δ_t (A x_t)ᵀ‖². It is exact for
what LoRA trains first, as A has no gradient there, and costs T r (in + out) operations at any length. A has
rank 8 and is drawn as `peft` draws it, by the seed and the site's name. The scale alpha / r is 1: it would
multiply all sites alike. Norms have their `fisher`. Experts in one parameter get an A each, and the batch's
gradient is squared.

Source: this project; FIM-LoRA, arXiv:2605.16800, sums the same over whole batches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from autopeft.records import Site
from autopeft.sensitivity.parts.gradients import expert_maps, norm_fisher, squares_of_products
from autopeft.sensitivity.parts.score import SiteScore, Sums
from autopeft.sensitivity.parts.sketches import generator

RANK = 8  # chosen by hand


def initial_a(site: Site, *, seed: int, copy: int = 0) -> Tensor:
    """The A of a site, shape (r, in), by `peft`'s rule: uniform within ± 1 / sqrt(in)."""
    bound = 1 / math.sqrt(site.in_features)  # kaiming_uniform with a = sqrt(5)
    uniform = torch.rand(RANK, site.in_features, generator=generator(seed, site.name, copy))
    return (2 * uniform - 1) * bound


def _reducer(sites: Sequence[Site], seed: int) -> Sums:
    a_by_site: dict[str, Tensor] = {}

    def term(site: Site, module: nn.Module, inputs: Tensor, gradient: Tensor) -> Tensor:
        if site.kind == "norm":
            return norm_fisher(module, inputs, gradient)
        if site.name not in a_by_site:
            copies = [initial_a(site, seed=seed, copy=copy) for copy in range(site.copies)]
            a_by_site[site.name] = torch.stack(copies).to(gradient)
        a = a_by_site[site.name].transpose(1, 2)
        if site.kind == "parameter":
            return (expert_maps(site, module, gradient) @ a).square().sum()
        return squares_of_products(inputs @ a[0], gradient).sum()  # (r, out) is faster than (out, r)

    return Sums(term)


PART = SiteScore(
    name="lora_fisher",
    summary="trace of the empirical Fisher of LoRA's B at its start",
    unit="(loss per unit of weight) squared",
    needed_pass="true",
    reducer=_reducer,
)
