"""The record of an importance score of target modules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autopeft.types import Target

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Score:
    """An importance score: a larger value means that training the target module changes more.

    `value(target, module, inputs, gradient)` computes a target module's value for one batch, shape (), at
    least 0; None if the score does not measure the target module. The values of all batches are added up and
    divided by the number of examples.

    `inputs` of the module are (B, T, in), float32. `gradient` is that of the examples' summed losses with
    respect to the outputs, (B, T, out), float32; row b comes from example b alone. For experts in one
    parameter, `module` holds the parameter, `inputs` is the parameter itself, and `gradient`, of the same
    shape, is summed over the examples.

    `value` must not change or keep the tensors. If `reads_examples` is false, it is called once for each
    target module, with empty tensors and without a pass through the model.
    """

    name: str
    summary: str  # what a value means, in one phrase
    unit: str  # of the values
    value: Callable[[Target, nn.Module, Tensor, Tensor], Tensor | None]
    reads_examples: bool = True
