"""The record of an importance score, the reducer that sums its values, and the factor of a norm's weight."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from autopeft.plugins import Reducer
from autopeft.types import Target


@dataclass(frozen=True, kw_only=True)
class TargetScore:
    """A score as `plugins.Score` has it."""

    name: str
    summary: str
    unit: str
    reads_examples: bool
    reducer: Callable[[Sequence[Target]], Reducer]


@dataclass
class Sums:
    """Adds up, in fp64, the number that a function of target, module, inputs and gradient has for each batch.

    The number has the shape (); None where the score does not measure the target module.
    """

    term: Callable[[Target, nn.Module, Tensor, Tensor], Tensor | None]
    sums: dict[str, Tensor] = field(default_factory=dict)

    def update(self, target: Target, module: nn.Module, inputs: Tensor, gradient: Tensor) -> None:
        """Count one batch at one target module."""
        term = self.term(target, module, inputs, gradient)
        if term is not None:
            self._add(target.name, term.double())

    def add(self, other: Any) -> None:
        """Merge another reducer's sums into these."""
        for name, total in other.sums.items():
            self._add(name, total)

    def values(self, n_examples: int) -> dict[str, float]:
        """Target module name -> the sum per example."""
        return {name: float(total) / n_examples for name, total in self.sums.items()}

    def _add(self, name: str, term: Tensor) -> None:
        self.sums[name] = self.sums[name] + term if name in self.sums else term


def normalise(module: nn.Module, inputs: Tensor) -> Tensor:
    """Compute what a norm layer multiplies by its weight, in the shape of `inputs`."""
    with torch.no_grad():
        if type(module) is nn.LayerNorm:
            return nn.functional.layer_norm(inputs, module.normalized_shape, eps=module.eps)
        # Gemma multiplies by 1 + weight, so the output at weight 0 is subtracted.
        return _output(module, inputs, weight=1.0) - _output(module, inputs, weight=0.0)


def _output(module: nn.Module, inputs: Tensor, *, weight: float) -> Tensor:
    """Compute a norm layer's output with one value in all of its weight and 0 in its other parameters."""
    state = {name: torch.zeros_like(p, dtype=inputs.dtype) for name, p in module.named_parameters()}
    state["weight"].fill_(weight)
    output: Tensor = torch.func.functional_call(module, state, (inputs,))
    return output.float()
