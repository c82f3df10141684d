"""Stable rank: over how many directions a site's weight spreads, ‖W‖_F² / ‖W‖₂².

The value is at least 1 and at most the rank. SR-LoRA gives each map its stable rank as the rank of its LoRA,
so a larger value asks for a larger rank. Of experts in one parameter it is the mean over the experts. A
weight that is all zero has the value 0. Norms have no value. Weights in few bits are dequantised, and the
value is theirs; those that quantisers other than bitsandbytes have packed have no value. The cost is that of
`conditioning`, and both together cost it once.

Source: SR-LoRA, Zhang et al. 2025, arXiv:2507.00327, and the ranks in its code. Where we differ: a plan's
ranks follow the score per parameter, within the budget.
"""

from __future__ import annotations

from torch import Tensor, nn

from autopeft.records import Site
from autopeft.sensitivity.parts.score import SiteScore, Sums
from autopeft.sensitivity.parts.singular_values import extreme_values


def _term(site: Site, module: nn.Module, weight: Tensor, gradient: Tensor) -> Tensor | None:
    if site.kind == "norm":
        return None
    largest, _, squared_norm = extreme_values(weight)
    return (squared_norm / largest.square()).where(largest != 0, 0.0).mean()


PART = SiteScore(
    name="stable_rank",
    summary="stable rank of the weight, ‖W‖_F² / ‖W‖₂² (SR-LoRA)",
    unit="directions",
    needed_pass="weights",
    reducer=lambda sites, seed: Sums(_term, value=lambda sums, n: float(sums[0])),
)
