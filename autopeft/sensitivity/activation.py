"""Activation: how much of a map's inputs a few directions explain; needs no labels.

The shares are the eigenvalues of the inputs' uncentred second moment C = Σ x xᵀ, divided by its trace, as EVA
ranks components. Of more than 1024 inputs a one-sided sketch C Ω is kept, and the eigenvalues are Nyström's.
Norms and experts in one parameter have no value.

Source: Paischl et al. 2024, arXiv:2410.07170, which centres nothing either; the sketch is Tropp et al. 2017,
arXiv:1706.05736. Where we differ: shares of the whole trace, not of the kept components'.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from autopeft.model import to_float64
from autopeft.records import Site
from autopeft.sensitivity.parts.gradients import cache_last_call
from autopeft.sensitivity.parts.score import SiteScore, Sums, Tensors
from autopeft.sensitivity.parts.sketches import generator, leading_values

_PROFILE_RANKS = 16
_VALUE_RANK = 8  # directions whose share is the score's value
_MAX_WHOLE = 1024  # inputs up to which C itself is summed, as for EVA's start; chosen by hand
_COLUMNS = 256  # of Ω: the error is a few percent where eigenvalues fall like r^-1.4


class _SecondMoments:
    """C or C Ω of a map's inputs, and its trace; a seed decides Ω."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self.projections: dict[int, Tensor] = {}
        self._moment = cache_last_call(self._moment_of)

    def term(self, site: Site, module: nn.Module, inputs: Tensor, gradient: Tensor) -> Tensors | None:
        """C (in, in) or C Ω (in, k), and the trace of C, of one batch."""
        return self._moment(inputs) if site.kind in ("linear", "conv1d") else None

    def value(self, sums: Tensors, n_examples: int) -> float:
        """Share of the first 8 directions, in [0, 1]."""
        return min(1.0, sum(self.profile(sums, n_examples)[:_VALUE_RANK]))

    def profile(self, sums: Tensors, n_examples: int) -> tuple[float, ...]:
        """Share of each of the first 16 directions, largest first."""
        moment, trace = sums
        is_whole = moment.shape[0] == moment.shape[1]
        values = leading_values(moment, _PROFILE_RANKS) if is_whole else self._nystrom(moment)
        tiny = torch.finfo(torch.float64).tiny
        return tuple((values[:_PROFILE_RANKS].clamp(min=0.0) / max(float(trace), tiny)).tolist())

    def _moment_of(self, inputs: Tensor) -> Tensors:
        rows = inputs.flatten(0, 1)
        right = rows if rows.shape[1] <= _MAX_WHOLE else rows @ self._projection(rows)
        return rows.T @ right, to_float64(rows.square().sum())

    def _nystrom(self, sketch: Tensor) -> Tensor:
        """Eigenvalues of C Ω (Ωᵀ C Ω)⁻¹ (C Ω)ᵀ, largest first; a small shift keeps the middle positive."""
        projection = self._projection(sketch.T).cpu().double()
        sketch = sketch.cpu().double()
        shift = float(torch.linalg.matrix_norm(sketch)) * torch.finfo(torch.float32).eps + 1e-300
        shifted = sketch + shift * projection
        middle = projection.T @ shifted
        root = torch.linalg.cholesky((middle + middle.T) / 2)
        half = torch.linalg.solve_triangular(root, shifted.T, upper=False)
        # Eigenvalues of the product are ten times as fast as an SVD of its half.
        values: Tensor = torch.linalg.eigvalsh(half @ half.T).flip(0) - shift
        return values

    def _projection(self, rows: Tensor) -> Tensor:
        """Ω (in, k) with orthonormal columns."""
        size = rows.shape[1]
        if size not in self.projections:
            normal = torch.randn((size, _COLUMNS), generator=generator(self._seed, "in", size))
            self.projections[size] = torch.linalg.qr(normal).Q.to(rows.device)
        return self.projections[size].to(rows.device)  # sums may lie on the CPU


def _reducer(sites: Sequence[Site], seed: int) -> Sums:
    moments = _SecondMoments(seed)
    return Sums(moments.term, value=moments.value, profile=moments.profile, projections=moments.projections)


PART = SiteScore(
    name="activation",
    summary=f"share of the inputs' second moment in its {_VALUE_RANK} largest directions",
    unit="share, in [0, 1]",
    needed_pass="inputs",
    reducer=_reducer,
)
