"""The protocol of an importance score of sites, and of the reducer that gathers it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from autopeft.records import Site

if TYPE_CHECKING:
    import torch
    from torch import nn


class Reducer(Protocol):
    """Gathers one score over a stream of batches; two of the same kind add up."""

    def see(self, site: Site, module: nn.Module, inputs: torch.Tensor, gradient: torch.Tensor) -> None:
        """Count one batch at one site, whole, or raise and count nothing of it; keep neither tensor.

        Args:
            site: Where.
            module: The module at the site; for experts in one parameter the one that holds it.
            inputs: Shape (B, T, in), fp32 or wider; zero at padding tokens. Sites with the same input
                are given the same tensor, one after the other. For experts: the parameter.
            gradient: That of the outputs, shape (B, T, out), of the sum of the examples' losses, so that
                row b is of example b alone; zero at padding tokens; empty for a score of `inputs`. For
                experts: that of the parameter, in its shape, where the examples cannot be told apart.
        """

    def add(self, other: Any) -> None:
        """Merge another reducer's counts (of the same score, sites and seed) into this one."""

    def values(self, n_examples: int) -> dict[str, float]:
        """Site name -> value >= 0, finite, averaged over examples; no entry where nothing was seen."""

    def profiles(self, n_examples: int) -> dict[str, tuple[float, ...]]:
        """Site name -> what each further rank adds, non-increasing, >= 0; {} where the score has none."""


@runtime_checkable
class Score(Protocol):
    """An importance score of sites.

    `labels` says what the pass has to be: `none` (the score looks at no example), `inputs` (a forward
    pass alone), `true` (backward from the loss) or `sampled` (the same with labels drawn from the
    model's own predictions). `unit` is that of the values, as a phrase.
    """

    name: str
    summary: str
    unit: str
    labels: str

    def reducer(self, sites: Sequence[Site], *, seed: int) -> Reducer:
        """A fresh reducer; the same seed draws the same random matrices."""
