"""Gradient: how much the loss would change, to first order, if the weights of a site went away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from autopeft.extension import Batch, Task
from autopeft.records import Site
from autopeft.sensitivity._activations import backward_over, weight_gradient


@dataclass(frozen=True)
class Gradient:
    """Summed |w g| (Molchanov et al. 2017, arXiv:1611.06440; as GoRA, arXiv:2502.12171, uses it)."""

    name: str = "gradient"
    summary: str = "summed |weight × gradient|"
    needs_gradients: bool = True

    def score(
        self, model: nn.Module, batches: Sequence[Batch], sites: Sequence[Site], *, task: Task, seed: int
    ) -> dict[str, float]:
        """Site name -> sum over weights of |w g|, averaged over batches, >= 0, in units of loss.

        The gradient is that of a batch's mean loss. A site with no gradient path scores 0.
        """
        totals = {site.name: 0.0 for site in sites}

        def reduce(site: Site, module: nn.Module, inputs: torch.Tensor, gradient: torch.Tensor) -> None:
            grad = weight_gradient(site, module, inputs, gradient)
            totals[site.name] += float((module.weight.detach() * grad).abs().sum()) * share  # type: ignore[operator]

        for batch in batches:
            # Not `len(inputs)`: OPT's feed-forward maps see (B T, in), routed experts some tokens of each.
            share = 1 / (len(batch["labels"]) * len(batches))
            backward_over(model, [batch], sites, task=task, reduce=reduce)
        return totals


PART = Gradient()
