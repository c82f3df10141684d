"""Fisher: the trace of the empirical Fisher information of a site's weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from autopeft.extension import Batch, Task
from autopeft.records import Site
from autopeft.sensitivity._activations import backward_over, normalised


@dataclass(frozen=True)
class Fisher:
    """Summed squared per-example gradients, by the ghost identity.

    Source: Kirkpatrick et al. 2017, arXiv:1612.00796, with the true labels (sampled labels
    would give the Fisher proper); norms without per-example gradients after
    Goodfellow 2015, arXiv:1510.01799, and Li et al. 2022, arXiv:2110.05679.
    """

    name: str = "fisher"
    summary: str = "trace of the empirical Fisher (summed squared per-example gradients)"
    needs_gradients: bool = True

    def score(
        self, model: nn.Module, batches: Sequence[Batch], sites: Sequence[Site], *, task: Task, seed: int
    ) -> dict[str, float]:
        """Site name -> sum over weights of grad², averaged over examples, >= 0.

        A site with no gradient path scores 0.
        """
        totals = {site.name: 0.0 for site in sites}
        n_examples = sum(len(batch["labels"]) for batch in batches)

        def reduce(site: Site, module: nn.Module, inputs: torch.Tensor, gradient: torch.Tensor) -> None:
            if site.kind == "norm":
                squares = (normalised(module, inputs) * gradient).sum(dim=1).square().sum()
            else:
                squares = squared_norms(inputs, gradient).sum()
            totals[site.name] += float(squares) / n_examples

        backward_over(model, batches, sites, task=task, reduce=reduce)
        return totals


def squared_norms(inputs: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """Squared norm of each example's weight gradient Gᵀ A, shape (B,).

    Args:
        inputs: A, shape (B, T, in).
        gradient: G, shape (B, T, out).

    By ‖GᵀA‖² = Σ (A Aᵀ) ∘ (G Gᵀ), which costs T² (in + out) instead of T in out; where
    2 T² > in × out the per-example gradient itself is the cheaper way (Bu et al. 2022, arXiv:2205.10683).
    """
    n_tokens, n_in, n_out = inputs.shape[1], inputs.shape[2], gradient.shape[2]
    if 2 * n_tokens**2 > n_in * n_out:
        return (gradient.transpose(1, 2) @ inputs).square().sum(dim=(1, 2))
    return ((inputs @ inputs.transpose(1, 2)) * (gradient @ gradient.transpose(1, 2))).sum(dim=(1, 2))


PART = Fisher()
