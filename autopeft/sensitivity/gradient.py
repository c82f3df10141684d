"""Gradient: how much the loss would change, to first order, if the weights of a site went away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from autopeft.extension import Reducer
from autopeft.model import plain_weight
from autopeft.records import Site
from autopeft.sensitivity._gradients import weight_gradient
from autopeft.sensitivity._sums import Sums


@dataclass(frozen=True)
class Gradient:
    """Summed |w g| (Molchanov et al. 2017, arXiv:1611.06440; as GoRA, arXiv:2502.12171, uses it).

    g is the gradient of a batch's mean loss, and the value the mean over batches, weighted by their
    sizes: it depends on the batch size, for what examples disagree on cancels within a batch. Biases are
    left out. Of a map in few bits by bitsandbytes w is what its bits stand for; what other quantisers have
    packed is not read: no value.
    """

    name: str = "gradient"
    summary: str = "summed |weight × gradient|"
    unit: str = "loss"
    labels: str = "true"

    def reducer(self, sites: Sequence[Site], *, seed: int) -> Reducer:
        """Site name -> sum over weights of |w g|, averaged over batches, >= 0."""
        return Sums(_sum_of_products)


def _sum_of_products(
    site: Site, module: nn.Module, inputs: torch.Tensor, gradient: torch.Tensor
) -> torch.Tensor | None:
    weight = inputs if site.kind == "parameter" else plain_weight(module)
    if weight is None:
        return None
    grad = weight_gradient(site, module, inputs, gradient)
    return grad.mul_(weight.detach()).abs_().sum() if grad is not gradient else (grad * weight).abs().sum()


PART = Gradient()
