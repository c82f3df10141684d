"""The Fisher of norms and experts, and of maps, which `fisher`, `fisher_sampled` and `lora_fisher` share."""

from __future__ import annotations

import torch
from torch import nn

from autopeft.records import Site
from autopeft.sensitivity._gradients import SquaredNorms, norm_gradients


class FisherTerm:
    """Sum over examples and weights of grad², of one batch at one site."""

    def __init__(self) -> None:
        self._squared_norms = SquaredNorms()

    def __call__(
        self, site: Site, module: nn.Module, inputs: torch.Tensor, gradient: torch.Tensor
    ) -> torch.Tensor:
        """Shape (); of experts in one parameter the squared norm of the batch's gradient as a whole."""
        if site.kind == "parameter":
            return gradient.square().sum()
        if site.kind == "norm":
            return norm_fisher(module, inputs, gradient)
        return self._squared_norms(inputs, gradient).sum()


def norm_fisher(module: nn.Module, inputs: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """Sum over examples of grad² over what norm tuning trains, weight and bias, shape ()."""
    return torch.stack([g.square().sum() for g in norm_gradients(module, inputs, gradient)]).sum()
