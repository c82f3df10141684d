"""Bias Fisher: the trace of the empirical Fisher of a site's bias, which BitFit trains.

The value is the sum of the squared per-example gradients of the bias, ‖Σ_t δ_t‖², of maps and norms alike.
Sites without a bias have no value.

Source: Kirkpatrick et al. 2017, arXiv:1612.00796, with the true labels; the biases are those that BitFit
trains, Ben Zaken et al. 2022, arXiv:2106.10199.
"""

from __future__ import annotations

from torch import Tensor, nn

from autopeft.records import Site
from autopeft.sensitivity.parts.score import SiteScore, Sums


def _term(site: Site, module: nn.Module, inputs: Tensor, gradient: Tensor) -> Tensor | None:
    return gradient.sum(dim=1).square().sum() if site.has_bias and site.kind != "parameter" else None


PART = SiteScore(
    name="bias_fisher",
    summary="trace of the empirical Fisher of the biases",
    unit="(loss per unit of bias) squared",
    needed_pass="true",
    reducer=lambda sites, seed: Sums(_term),
)
