"""The record of an importance score, and the reducer that adds up its values over batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from autopeft.extension import Reducer
from autopeft.model import to_float64
from autopeft.records import Site


@dataclass(frozen=True, kw_only=True)
class SiteScore:
    """A score as `extension.Score` has it."""

    name: str
    summary: str
    unit: str
    reads_examples: bool
    reducer: Callable[[Sequence[Site]], Reducer]


@dataclass
class Sums:
    """Adds up, in fp64, the number that a function of site, module, inputs and gradient gives for each batch.

    The number has the shape (); None where the score does not measure the site.
    """

    term: Callable[[Site, nn.Module, Tensor, Tensor], Tensor | None]
    sums: dict[str, Tensor] = field(default_factory=dict)

    def update(self, site: Site, module: nn.Module, inputs: Tensor, gradient: Tensor) -> None:
        """Count one batch at one site."""
        term = self.term(site, module, inputs, gradient)
        if term is not None:
            self._add(site.name, to_float64(term))

    def add(self, other: Any) -> None:
        """Merge another reducer's sums into these."""
        for name, total in other.sums.items():
            self._add(name, total)

    def values(self, n_examples: int) -> dict[str, float]:
        """Site name -> the sum per example."""
        return {name: float(total) / n_examples for name, total in self.sums.items()}

    def _add(self, name: str, term: Tensor) -> None:
        self.sums[name] = self.sums[name] + term if name in self.sums else term
