"""The protocol of an importance score of target modules, and of the reducer that gathers it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from autopeft.types import Target

if TYPE_CHECKING:
    import torch
    from torch import nn


class Reducer(Protocol):
    """Gathers one score over a stream of batches; the counts of two reducers can be added."""

    def update(self, target: Target, module: nn.Module, inputs: torch.Tensor, gradient: torch.Tensor) -> None:
        """Add one batch to the counts of one target module.

        If this raises, the counts must be as before: the caller tries again with a smaller batch. Do not keep
        a reference to either tensor.

        Args:
            target: One of the target modules that the reducer was made for.
            module: The module itself; for experts in one parameter, the module that holds it.
            inputs: Shape (B, T, in), fp32 or wider, zero at padding tokens. Target modules with the same
                input get the same tensor, one after the other. For experts: the parameter.
            gradient: Gradient of the sum of the examples' losses by the outputs, shape (B, T, out), zero at
                padding tokens: row b comes from example b alone. For experts: the gradient by the parameter,
                in its shape; examples are summed.
        """

    def add(self, other: Any) -> None:
        """Add another reducer's counts to this one; `other` has the same score and target modules."""

    def values(self, n_examples: int) -> dict[str, float]:
        """Average over examples: target name -> finite score >= 0; no entry for a target without batches."""


@runtime_checkable
class Score(Protocol):
    """An importance score of target modules: larger means that training the target module changes more."""

    name: str  # what specifications call it, such as `fisher`
    summary: str  # what it says of a target module, in one phrase
    unit: str  # of the values, as a phrase
    reads_examples: bool  # True: from a forward and a backward pass; False: no batch is ever counted

    def reducer(self, targets: Sequence[Target]) -> Reducer:
        """Make an empty reducer for these target modules."""
