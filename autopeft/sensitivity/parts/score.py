"""The record of an importance score; its reducers: sums over batches, and values that need no batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from autopeft.extension import Reducer, ScorePass
from autopeft.model import free_bytes, to_float64
from autopeft.records import Site

Tensors = tuple[Tensor, ...]
# Of a GPU's free memory, that a site's sum takes at most: with hundreds of sites some is left for the pass.
# Chosen by hand.
_LARGEST_SHARE = 1 / 256
Term = Callable[[Site, nn.Module, Tensor, Tensor], "Tensor | Tensors | None"]


@dataclass(frozen=True, kw_only=True)
class SiteScore:
    """A score as `extension.Score` has it; `reducer` is called with the sites and `seed=`."""

    name: str
    summary: str
    unit: str
    needed_pass: ScorePass
    reducer: Callable[..., Reducer]


def mean(sums: Tensors, n_examples: int) -> float:
    """The sum per example."""
    return float(sums[0]) / n_examples


@dataclass
class Sums:
    """Adds up what a function of site, module, inputs and gradient gives for each batch.

    `term` gives a number, shape (), which is summed in fp64; or several tensors, summed as they are; or None
    where the score does not measure the site. `value` and `profile` (None: no profiles) are computed from a
    site's sums and the number of examples. `projections` are tensors that `term` keeps beside the sums; the
    pass counts them as memory.
    """

    term: Term
    value: Callable[[Tensors, int], float] = mean
    profile: Callable[[Tensors, int], tuple[float, ...]] | None = None
    projections: Mapping[Any, Tensor] | None = None
    sums: dict[str, Tensors] = field(default_factory=dict)

    def update(self, site: Site, module: nn.Module, inputs: Tensor, gradient: Tensor) -> None:
        """Count one batch at one site."""
        term = self.term(site, module, inputs, gradient)
        if term is not None:
            self._add(site.name, (to_float64(term),) if isinstance(term, Tensor) else term)

    def add(self, other: Any) -> None:
        """Merge another reducer's sums into these."""
        for name, sums in other.sums.items():
            self._add(name, sums)

    def values(self, n_examples: int) -> dict[str, float]:
        """Site name -> value."""
        return {name: self.value(sums, n_examples) for name, sums in self.sums.items()}

    def profiles(self, n_examples: int) -> dict[str, tuple[float, ...]]:
        """Site name -> profile."""
        if self.profile is None:
            return {}
        return {name: self.profile(sums, n_examples) for name, sums in self.sums.items()}

    def _add(self, name: str, terms: Tensors) -> None:
        before = self.sums.get(name)
        if before is None:
            self.sums[name] = _placed(terms)
        else:
            pairs = zip(before, terms, strict=True)
            self.sums[name] = tuple(total + term.to(total.device) for total, term in pairs)


def _placed(totals: Tensors) -> Tensors:
    """The sums of a site where they are kept: on the CPU if one would take much of a GPU's free memory.

    Those on Apple's GPUs, which share the memory and lack many decompositions, all go there.
    """
    device, largest = totals[0].device, max(totals, key=lambda total: total.nbytes)
    if device.type == "cpu" or largest.numel() == 1:
        return totals
    is_large = device.type == "mps" or largest.nbytes > _LARGEST_SHARE * free_bytes(device)
    return tuple(total.cpu() for total in totals) if is_large else totals


@dataclass
class FixedValues:
    """Values of a score that looks at no example."""

    value_by_site: dict[str, float]

    def update(self, site: Site, module: nn.Module, inputs: Tensor, gradient: Tensor) -> None:
        """Count nothing."""

    def add(self, other: Any) -> None:
        """Merge nothing."""

    def values(self, n_examples: int) -> dict[str, float]:
        """Site name -> value."""
        return self.value_by_site

    def profiles(self, n_examples: int) -> dict[str, tuple[float, ...]]:
        """No profiles."""
        return {}
