"""Conditioning: how well-conditioned a site's weight is, 1 / κ with κ = σ_max / σ_min.

KappaTune adapts the weights of the lowest κ: they use all directions alike, so that an update disturbs less
of what was learned. Square maps have a far larger κ than others, by their shape alone. Of experts in one
parameter κ is the mean over the experts. The value is 0 where κ is infinite, as for weights that lack rank or
are all zero: σ_min is below what float64 resolves, which is κ above 1e6 at 4096 rows. Norms have no value.
Weights in few bits are dequantised, and the value is theirs; those that quantisers other than bitsandbytes
have packed have no value.

The singular values are roots of the eigenvalues of the smaller side's Gram matrix, in float64, one weight at
a time. A map of 4096 × 14336 takes 24 s of CPU time (measured) and 170 MB beside the weight; an SVD of
1024 × 3584 takes five times as long as this way.

Source: KappaTune, arXiv:2506.16289; `find_kappa_target_modules` of `peft` orders modules in the same way.
Where we differ: its κ is σ_max / (σ_min + 1e-8), which is 0, the best, for a weight that is all zero.
"""

from __future__ import annotations

from torch import Tensor, nn

from autopeft.records import Site
from autopeft.sensitivity.parts.score import SiteScore, Sums
from autopeft.sensitivity.parts.singular_values import extreme_values


def _term(site: Site, module: nn.Module, weight: Tensor, gradient: Tensor) -> Tensor | None:
    if site.kind == "norm":
        return None
    largest, smallest, _ = extreme_values(weight)
    kappa = largest / smallest  # nan for 0 / 0
    return (1 / kappa.mean()).where(largest.min() != 0, 0.0)


PART = SiteScore(
    name="conditioning",
    summary="inverse of the weight's condition number (KappaTune)",
    unit="share, in [0, 1]",
    needed_pass="weights",
    reducer=lambda sites, seed: Sums(_term, value=lambda sums, n: float(sums[0])),
)
