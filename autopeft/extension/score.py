"""The protocol of an importance score of sites, and of the reducer that gathers it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from autopeft.records import Site

if TYPE_CHECKING:
    import torch
    from torch import nn

ScorePass = Literal["none", "weights", "inputs", "layers", "true", "sampled"]


class Reducer(Protocol):
    """Gathers one score over a stream of batches; the counts of two reducers can be added."""

    def update(self, site: Site, module: nn.Module, inputs: torch.Tensor, gradient: torch.Tensor) -> None:
        """Count one batch at one site.

        A batch is counted as a whole: where this raises, nothing of the batch may have been counted. Neither
        tensor may be kept.

        Args:
            site: One of the sites that the reducer was made for.
            module: The module at the site; for experts in one parameter, the module that holds it.
            inputs: Shape (B, T, in), fp32 or wider, zero at padding tokens. Sites with the same input
                get the same tensor, one after the other. For experts: the parameter.
            gradient: Gradient of the sum of the examples' losses by the outputs, shape (B, T, out), zero at
                padding tokens: row b comes from example b alone. Empty where the score's `needed_pass` is
                `inputs`. For experts: the gradient by the parameter, in its shape; examples are summed.

        Where `needed_pass` is `layers`, the call is about a layer of the stack: `site` is its first one,
        `module` the layer, `inputs` its input and `gradient` its output, both (B, T, D). Where it is
        `weights`, each site comes once: `inputs` is its weight, (out, in), (out,) of a norm, or
        (experts, out, in), dequantised, in the format that it is held in; `gradient` is empty.
        """

    def add(self, other: Any) -> None:
        """Add another reducer's counts to this one; `other` has the same score, sites and seed."""

    def values(self, n_examples: int) -> dict[str, float]:
        """Site name -> score >= 0, finite, averaged over examples; no entry for a site without batches."""

    def profiles(self, n_examples: int) -> dict[str, tuple[float, ...]]:
        """Site name -> gain of each further rank, >= 0, non-increasing; {} where the score has no ranks."""


@runtime_checkable
class Score(Protocol):
    """An importance score of sites: larger means that training the site changes more."""

    name: str  # what specifications call it, such as `fisher`
    summary: str  # what it says of a site, in one phrase
    unit: str  # of the values, as a phrase
    # `none` (no example is read), `weights` (each weight is read, but no example), `inputs` (a forward pass),
    # `layers` (a forward pass, for the inputs and outputs of whole layers), `true` (forward, and backward
    # from the loss) or `sampled` (the same, with labels drawn from the model's predictions).
    needed_pass: ScorePass

    def reducer(self, sites: Sequence[Site], *, seed: int) -> Reducer:
        """A reducer for these sites, without counts; the seed decides each of its random draws."""
