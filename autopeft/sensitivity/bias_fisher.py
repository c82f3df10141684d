"""Bias Fisher: the trace of the empirical Fisher of a site's bias, which BitFit trains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from autopeft.extension import Reducer
from autopeft.records import Site
from autopeft.sensitivity._sums import Sums


@dataclass(frozen=True)
class BiasFisher:
    """Summed squared per-example gradients of the bias, ‖Σ_t δ_t‖², of maps and norms alike.

    Apart from `fisher`, because a bias's part would vanish beside that of the weight. Sites without a
    bias have no value.

    Source: Kirkpatrick et al. 2017, arXiv:1612.00796, with the true labels; of what Ben Zaken et al. 2022,
    arXiv:2106.10199, train.
    """

    name: str = "bias_fisher"
    summary: str = "trace of the empirical Fisher of the biases"
    unit: str = "(loss per unit of bias) squared"
    labels: str = "true"

    def reducer(self, sites: Sequence[Site], *, seed: int) -> Reducer:
        """Site name -> sum over the bias of grad², averaged over examples, >= 0."""
        return Sums(_term)


def _term(site: Site, module: nn.Module, inputs: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor | None:
    return gradient.sum(dim=1).square().sum() if site.has_bias and site.kind != "parameter" else None


PART = BiasFisher()
