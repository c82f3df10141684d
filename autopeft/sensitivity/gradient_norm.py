"""Gradient norm: how long the gradient of a site's weights is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from autopeft.extension import Reducer
from autopeft.records import Site
from autopeft.sensitivity._gradients import weight_gradient
from autopeft.sensitivity._sums import Sums


@dataclass(frozen=True)
class GradientNorm:
    """Root of the summed squared norms of the batches' gradients, per example.

    The norm of the mean gradient over all batches would need that gradient to be kept for every
    site; this needs one batch's at a time. So it depends on the batch size: at one example a
    batch it is the root of `fisher`, with growing batches the mean gradient takes over.

    Source: batches' gradient norms as in SPEFT, arXiv:2412.13488, which finds them on par with the best.
    """

    name: str = "gradient_norm"
    summary: str = "norm of the batches' gradients"
    unit: str = "loss per unit of weight"
    labels: str = "true"

    def reducer(self, sites: Sequence[Site], *, seed: int) -> Reducer:
        """Site name -> sqrt(sum over batches of the squared gradient norm / examples), >= 0."""
        return Sums(_squared_norm, finish=math.sqrt)


def _squared_norm(
    site: Site, module: nn.Module, inputs: torch.Tensor, gradient: torch.Tensor
) -> torch.Tensor:
    grad = weight_gradient(site, module, inputs, gradient).flatten()
    return torch.dot(grad, grad)


PART = GradientNorm()
