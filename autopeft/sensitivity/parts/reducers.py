"""The two reducers: sums over batches, and values that are known from the start."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from autopeft.records import Site

Tensors = tuple[Tensor, ...]
Term = Callable[[Site, nn.Module, Tensor, Tensor], "Tensor | Tensors | None"]


def mean(sums: Tensors, n_examples: int) -> float:
    """The sum per example."""
    return float(sums[0]) / n_examples


class Sums:
    """Adds up what a function of site, module, inputs and gradient gives for each batch."""

    def __init__(
        self,
        term: Term,
        *,
        value: Callable[[Tensors, int], float] = mean,
        profile: Callable[[Tensors, int], tuple[float, ...]] | None = None,
        projections: Mapping[Any, Tensor] | None = None,
    ) -> None:
        """Start at nothing.

        Args:
            term: Of one batch at one site: a number, shape (), summed in fp64; or several tensors, summed as
                they are; or None: the site is not measured.
            value: From a site's sums and the number of examples.
            profile: From a site's sums and the number of examples; None: the score has no profiles.
            projections: Tensors that `term` keeps beside the sums; the pass counts them as memory.
        """
        self._term, self._value, self._profile = term, value, profile
        self._projections = projections
        self._sums: dict[str, Tensors] = {}

    def update(self, site: Site, module: nn.Module, inputs: Tensor, gradient: Tensor) -> None:
        """Count one batch at one site."""
        term = self._term(site, module, inputs, gradient)
        if term is not None:
            self._add(site.name, (term.double(),) if isinstance(term, Tensor) else term)

    def add(self, other: Any) -> None:
        """Merge another reducer's sums into these."""
        for name, sums in other._sums.items():
            self._add(name, sums)

    def values(self, n_examples: int) -> dict[str, float]:
        """Site name -> value."""
        return {name: self._value(sums, n_examples) for name, sums in self._sums.items()}

    def profiles(self, n_examples: int) -> dict[str, tuple[float, ...]]:
        """Site name -> profile."""
        if self._profile is None:
            return {}
        return {name: self._profile(sums, n_examples) for name, sums in self._sums.items()}

    def _add(self, name: str, terms: Tensors) -> None:
        before = self._sums.get(name)
        self._sums[name] = terms if before is None else tuple(map(torch.add, before, terms))


class FixedValues:
    """Values of a score that looks at no example."""

    def __init__(self, values: dict[str, float]) -> None:
        self._values = values

    def update(self, site: Site, module: nn.Module, inputs: Tensor, gradient: Tensor) -> None:
        """Count nothing."""

    def add(self, other: Any) -> None:
        """Merge nothing."""

    def values(self, n_examples: int) -> dict[str, float]:
        """Site name -> value."""
        return self._values

    def profiles(self, n_examples: int) -> dict[str, tuple[float, ...]]:
        """No profiles."""
        return {}
