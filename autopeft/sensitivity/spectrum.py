"""Spectrum: how much of a site's mean gradient the best update of each rank holds, as energies σ_r².

G (out, in) is the gradient summed over all examples. Of a large map only two sketches are summed over
batches, Y = G Ω and Z = Ψ G, from δᵀ (x Ω) and (δ Ψᵀ)ᵀ x; G is rebuilt as Q (Ψ Q)⁺ Z with Q = orth(Y). Of a
map of up to 1280 × 1280 the sketches would be larger than G, so G itself is summed, and the energies are
exact. A norm has one energy, of its weight and bias together, which norm tuning takes whole. Experts in one
parameter are left out.

Source: Tropp et al. 2017, arXiv:1609.00048, algorithm 4.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from autopeft.model import to_float64
from autopeft.records import Site
from autopeft.sensitivity.parts.gradients import cache_last_call, norm_gradients, summed_product
from autopeft.sensitivity.parts.score import SiteScore, Sums, Tensors
from autopeft.sensitivity.parts.sketches import generator, leading_values

_PROFILE_RANKS = 16
# Columns of Ω and rows of Ψ. Energies of real gradients fall like r^-1.4 (MiniLM-L6 on review sentences). The
# tail that a sketch leaves out is spread as noise over the rest, ‖tail‖² / (l - k): a few percent here.
_RANGE, _CORANGE = 256, 1024


class _Sketches:
    """G, or Y and Z, of each site; a seed decides Ω and Ψ."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self.projections: dict[tuple[str, int], Tensor] = {}
        # Sites of one input width share Ω, so that x Ω is computed once for q, k and v.
        self._projected = cache_last_call(lambda x: x.flatten(0, 1) @ self._projection("in", x))

    def term(self, site: Site, module: nn.Module, inputs: Tensor, gradient: Tensor) -> Tensors | None:
        """One batch's part of G (out, in), or of Y (out, k) and Z (l, in)."""
        if site.kind == "parameter":
            return None
        if site.kind == "norm":
            parts = norm_gradients(module, inputs, gradient)
            return (torch.cat([part.sum(dim=0) for part in parts])[None],)
        n_in, n_out = site.in_features, site.out_features
        if n_in * n_out <= _RANGE * n_out + _CORANGE * n_in:  # the sketches would be larger than G
            return (summed_product(gradient, inputs),)
        left = gradient.flatten(0, 1)
        corange = (left @ self._projection("out", gradient)).T @ inputs.flatten(0, 1)
        return left.T @ self._projected(inputs), corange

    def value(self, sums: Tensors, n_examples: int) -> float:
        """‖G‖² / n²; from Z without a decomposition, so that halves are compared quickly."""
        # E ‖Ψ G‖² = l ‖G‖²
        total = to_float64(sums[-1]).square().sum() / (_CORANGE if len(sums) == 2 else 1)
        return float(total) / n_examples**2

    def profile(self, sums: Tensors, n_examples: int) -> tuple[float, ...]:
        """σ_r² / n² for r up to 16."""
        core = sums[0]
        if len(sums) == 2:
            basis = torch.linalg.qr(core).Q
            mixed = self._projection("out", basis.T).T @ basis
            core = torch.linalg.lstsq(mixed, sums[1]).solution
        return tuple(leading_values(core / n_examples, _PROFILE_RANKS).square().tolist())

    def _projection(self, side: str, rows: Tensor) -> Tensor:
        """Ω (in, k) or Ψᵀ (out, l), standard normal."""
        size = rows.shape[-1]
        if (side, size) not in self.projections:
            shape = (size, _RANGE if side == "in" else _CORANGE)
            normal = torch.randn(shape, generator=generator(self._seed, side, size))
            self.projections[side, size] = normal.to(device=rows.device)
        return self.projections[side, size].to(rows.device)  # sums may lie on the CPU


def _reducer(sites: Sequence[Site], seed: int) -> Sums:
    sketches = _Sketches(seed)
    return Sums(
        sketches.term, value=sketches.value, profile=sketches.profile, projections=sketches.projections
    )


PART = SiteScore(
    name="spectrum",
    summary="energy of the mean gradient, and what each rank of an update holds of it",
    unit="(loss per unit of weight) squared",
    needed_pass="true",
    reducer=_reducer,
)
