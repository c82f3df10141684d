"""The reducer of most scores: one sum for each site, of one term for each batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from autopeft.records import Site

Term = Callable[[Site, nn.Module, torch.Tensor, torch.Tensor], "torch.Tensor | None"]


class Sums:
    """Adds up what `term(site, module, inputs, gradient)` says, shape (); None counts nothing."""

    def __init__(self, term: Term, *, finish: Callable[[float], float] = float) -> None:
        """`finish` makes a value of a sum that was divided by the number of examples."""
        self._term = term
        self._finish = finish
        self._sums: dict[str, torch.Tensor] = {}

    def see(self, site: Site, module: nn.Module, inputs: torch.Tensor, gradient: torch.Tensor) -> None:
        """Count one batch at one site."""
        term = self._term(site, module, inputs, gradient)
        if term is not None:
            self._add(site.name, term.double())

    def add(self, other: Any) -> None:
        """Merge another reducer's sums into these."""
        for name, value in other._sums.items():
            self._add(name, value)

    def values(self, n_examples: int) -> dict[str, float]:
        """Site name -> value of the sum per example."""
        return {name: self._finish(float(value) / n_examples) for name, value in self._sums.items()}

    def profiles(self, n_examples: int) -> dict[str, tuple[float, ...]]:
        """None."""
        return {}

    def _add(self, name: str, value: torch.Tensor) -> None:
        before = self._sums.get(name)
        self._sums[name] = value if before is None else before + value


class Given:
    """The reducer of a score that looks at no example: its values are there from the start."""

    def __init__(self, values: dict[str, float]) -> None:
        self._values = values

    def see(self, site: Site, module: nn.Module, inputs: torch.Tensor, gradient: torch.Tensor) -> None:
        """Nothing is counted."""

    def add(self, other: Any) -> None:
        """Nothing is merged."""

    def values(self, n_examples: int) -> dict[str, float]:
        """Site name -> value."""
        return self._values

    def profiles(self, n_examples: int) -> dict[str, tuple[float, ...]]:
        """None."""
        return {}
