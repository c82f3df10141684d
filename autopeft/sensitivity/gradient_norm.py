"""Gradient norm: the length of the gradient of a site's weights.

The root of the batches' summed squared gradient norms, per example. The norm of the mean gradient over all
batches would need that gradient to be kept for every site. So the value depends on the batch size: at one
example a batch it is the root of `fisher`; the larger the batch, the more the mean gradient decides.

Source: batches' gradient norms as in SPEFT, arXiv:2412.13488, which finds them on par with the best scores.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from autopeft.records import Site
from autopeft.sensitivity.parts.gradients import weight_gradient
from autopeft.sensitivity.parts.score import SiteScore, Sums, mean


def _term(site: Site, module: nn.Module, inputs: Tensor, gradient: Tensor) -> Tensor:
    grad = weight_gradient(site, module, inputs, gradient).flatten()
    return torch.dot(grad, grad)


PART = SiteScore(
    name="gradient_norm",
    summary="norm of the batches' gradients",
    unit="loss per unit of weight",
    needed_pass="true",
    reducer=lambda sites, seed: Sums(_term, value=lambda sums, n: math.sqrt(mean(sums, n))),
)
