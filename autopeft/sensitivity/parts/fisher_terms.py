"""Squared per-example gradients, which `fisher`, `fisher_sampled` and `lora_fisher` share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from autopeft.records import Site
from autopeft.sensitivity.parts.gradients import SquaredNorms, norm_gradients
from autopeft.sensitivity.parts.reducers import Sums


def fisher_reducer(sites: Sequence[Site], seed: int) -> Sums:
    """Site name -> sum over weights of grad², averaged over examples, >= 0.

    Experts in one parameter have no gradient per example: the squared norm of the batch's gradient counts.
    """
    squared_norms = SquaredNorms()

    def term(site: Site, module: nn.Module, inputs: Tensor, gradient: Tensor) -> Tensor:
        if site.kind == "parameter":
            return gradient.square().sum()
        if site.kind == "norm":
            return norm_fisher(module, inputs, gradient)
        return squared_norms(inputs, gradient).sum()

    return Sums(term)


def norm_fisher(module: nn.Module, inputs: Tensor, gradient: Tensor) -> Tensor:
    """Sum over examples of grad² of a norm's weight and bias, shape ()."""
    return torch.stack([g.square().sum() for g in norm_gradients(module, inputs, gradient)]).sum()
