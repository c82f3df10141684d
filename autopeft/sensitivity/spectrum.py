"""Spectrum: how much of a site's gradient the best update of each rank holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from autopeft.extension import Reducer
from autopeft.records import Site
from autopeft.sensitivity._draws import generator
from autopeft.sensitivity._gradients import Remembered, norm_gradients, summed_product
from autopeft.sensitivity._leading import leading_values

RANKS = 16  # that are reported
# Energies of real gradients fall like r^-1.4 (MiniLM-L6 on review sentences): what a sketch leaves out is
# spread as noise over what it finds, ‖tail‖² / (l - k), which takes this many columns to be a few percent.
_RANGE = 256
_CORANGE = 1024


@dataclass(frozen=True)
class Spectrum:
    """Energies σ_r² of the mean gradient, from sketches that add up over batches.

    G (out, in) is the gradient summed over all examples. No batch's part of it is formed: Y = G Ω and
    Z = Ψ G come from δᵀ (x Ω) and (δ Ψᵀ)ᵀ x, and G is rebuilt as Q (Ψ Q)⁺ Z with Q = orth(Y). Where the
    sketches would hold more numbers than G (maps of up to 1280 × 1280), G itself is summed up, and the
    energies are exact.

    A norm has one energy, of its weight and bias together, which norm tuning takes whole. Experts in
    one parameter are left out.

    Source: Tropp et al. 2017, arXiv:1609.00048, algorithm 4.
    """

    name: str = "spectrum"
    summary: str = "energy of the mean gradient, and what each rank of an update holds of it"
    unit: str = "(loss per unit of weight) squared"
    labels: str = "true"

    def reducer(self, sites: Sequence[Site], *, seed: int) -> Reducer:
        """Site name -> ‖G‖² / n², >= 0; profiles hold σ_r² / n² for r up to 16."""
        return Sketches(seed)


class Sketches:
    """One or two matrices for each site, which add up."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._tests: dict[tuple[str, int], torch.Tensor] = {}
        self._sums: dict[str, tuple[torch.Tensor, ...]] = {}
        # Sites of one input width share Ω, so that x Ω is found once for q, k and v.
        self._projected = Remembered(lambda inputs: inputs.flatten(0, 1) @ self._test("in", inputs))

    def see(self, site: Site, module: nn.Module, inputs: torch.Tensor, gradient: torch.Tensor) -> None:
        """Count one batch at one site."""
        if site.kind == "norm":
            parts = norm_gradients(module, inputs, gradient)
            self._add(site.name, (torch.cat([part.sum(dim=0) for part in parts])[None],))
        elif site.kind != "parameter" and _is_small(site):
            self._add(site.name, (summed_product(gradient, inputs),))
        elif site.kind != "parameter":
            left = gradient.flatten(0, 1)
            co_range = (left @ self._test("out", gradient)).T @ inputs.flatten(0, 1)
            self._add(site.name, (left.T @ self._projected(inputs), co_range))

    def add(self, other: Any) -> None:
        """Merge another reducer's sketches into these."""
        for name, sketches in other._sums.items():
            self._add(name, sketches)

    def values(self, n_examples: int) -> dict[str, float]:
        """Site name -> energy of the mean gradient: no decomposition, so that halves are soon compared."""
        # E ‖Ψ G‖² = l ‖G‖²
        totals = {
            name: sketches[-1].double().square().sum() / (_CORANGE if len(sketches) == 2 else 1)
            for name, sketches in self._sums.items()
        }
        return {name: float(total) / n_examples**2 for name, total in totals.items()}

    def profiles(self, n_examples: int) -> dict[str, tuple[float, ...]]:
        """Site name -> energies σ_r² of the mean gradient."""
        return {name: self._energies(sketches, n_examples) for name, sketches in self._sums.items()}

    def _energies(self, sketches: Sequence[torch.Tensor], n_examples: int) -> tuple[float, ...]:
        core = sketches[0]
        if len(sketches) == 2:
            basis = torch.linalg.qr(core).Q
            mixed = self._test("out", basis.T).T @ basis
            core = torch.linalg.lstsq(mixed, sketches[1]).solution
        return tuple(leading_values(core / n_examples, RANKS).square().tolist())

    def _test(self, side: str, like: torch.Tensor) -> torch.Tensor:
        """Ω (in, k) or Ψᵀ (out, l), standard normal."""
        size = like.shape[-1]
        if (side, size) not in self._tests:
            shape = (size, _RANGE if side == "in" else _CORANGE)
            drawn = torch.randn(shape, generator=generator(self._seed, side, size))
            self._tests[side, size] = drawn.to(device=like.device)
        return self._tests[side, size]

    def _add(self, name: str, sketches: tuple[torch.Tensor, ...]) -> None:
        before = self._sums.get(name)
        self._sums[name] = (
            sketches
            if before is None
            else tuple(first + second for first, second in zip(before, sketches, strict=True))
        )


def _is_small(site: Site) -> bool:
    n_in, n_out = site.in_features, site.out_features
    return n_in * n_out <= _RANGE * n_out + _CORANGE * n_in


PART = Spectrum()
