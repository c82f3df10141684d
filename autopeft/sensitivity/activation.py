"""Activation: how much of a map's inputs a few directions explain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from autopeft.extension import Reducer
from autopeft.records import Site
from autopeft.sensitivity._draws import generator
from autopeft.sensitivity._gradients import Remembered
from autopeft.sensitivity._leading import leading_values

RANKS = 16  # that are reported
VALUE_RANK = 8  # directions whose share is the score's value
WHOLE = 1024  # inputs up to which the second moment is summed up whole, as for EVA's start; chosen by hand
_COLUMNS = 256  # of the sketch of a larger one: a few percent where eigenvalues fall like r^-1.4


@dataclass(frozen=True)
class Activation:
    """Explained-variance ratios of a map's inputs, as EVA ranks components; needs no labels.

    The ratios are the eigenvalues of the inputs' uncentred second moment Σ x xᵀ over its trace. Of more than
    1024 inputs a one-sided sketch C Ω is kept instead, and the eigenvalues are Nyström's. Norms and
    experts in one parameter have no value.

    Source: Paischl et al. 2024, arXiv:2410.07170, which centres nothing either; the sketch is Tropp et al.
    2017, arXiv:1706.05736. Where we differ: ratios of the whole trace, not of the kept components'.
    """

    name: str = "activation"
    summary: str = f"share of the inputs' second moment in its {VALUE_RANK} largest directions"
    unit: str = "share, in [0, 1]"
    labels: str = "inputs"

    def reducer(self, sites: Sequence[Site], *, seed: int) -> Reducer:
        """Site name -> share of the first 8 directions; profiles hold each direction's up to 16."""
        return SecondMoments(seed)


class SecondMoments:
    """Σ x xᵀ of each map's inputs, or its sketch, and the trace."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._tests: dict[int, torch.Tensor] = {}
        self._sums: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        self._moment = Remembered(self._moment_of)

    def see(self, site: Site, module: nn.Module, inputs: torch.Tensor, gradient: torch.Tensor) -> None:
        """Count one batch at one site."""
        if site.kind in ("linear", "conv1d"):
            self._add(site.name, self._moment(inputs))

    def add(self, other: Any) -> None:
        """Merge another reducer's sums into these."""
        for name, moment in other._sums.items():
            self._add(name, moment)

    def values(self, n_examples: int) -> dict[str, float]:
        """Site name -> share of the first 8 directions."""
        return {name: min(1.0, sum(p[:VALUE_RANK])) for name, p in self.profiles(n_examples).items()}

    def profiles(self, n_examples: int) -> dict[str, tuple[float, ...]]:
        """Site name -> share of each direction, largest first."""
        return {name: self._shares(*moment) for name, moment in self._sums.items()}

    def _moment_of(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        rows = inputs.flatten(0, 1)
        right = rows if rows.shape[1] <= WHOLE else rows @ self._test(rows)
        return rows.T @ right, rows.square().sum().double()

    def _shares(self, moment: torch.Tensor, trace: torch.Tensor) -> tuple[float, ...]:
        whole = moment.shape[0] == moment.shape[1]
        found = leading_values(moment, RANKS) if whole else self._nystrom(moment)
        shares = found[:RANKS].clamp(min=0.0) / max(float(trace), torch.finfo(torch.float64).tiny)
        return tuple(shares.tolist())

    def _nystrom(self, sketch: torch.Tensor) -> torch.Tensor:
        """Eigenvalues of C Ω (Ωᵀ C Ω)⁻¹ (C Ω)ᵀ, largest first; a small shift keeps the middle positive."""
        test = self._test(sketch.T).double().cpu()
        sketch = sketch.double().cpu()
        shift = float(torch.linalg.matrix_norm(sketch)) * torch.finfo(torch.float32).eps + 1e-300
        shifted = sketch + shift * test
        middle = test.T @ shifted
        root = torch.linalg.cholesky((middle + middle.T) / 2)
        half = torch.linalg.solve_triangular(root, shifted.T, upper=False)
        found: torch.Tensor = torch.linalg.eigvalsh(half @ half.T).flip(0) - shift  # ten times as fast as SVD
        return found

    def _test(self, rows: torch.Tensor) -> torch.Tensor:
        size = rows.shape[1]
        if size not in self._tests:
            drawn = torch.randn((size, _COLUMNS), generator=generator(self._seed, "in", size))
            self._tests[size] = torch.linalg.qr(drawn).Q.to(rows.device)
        return self._tests[size]

    def _add(self, name: str, moment: tuple[torch.Tensor, torch.Tensor]) -> None:
        before = self._sums.get(name)
        self._sums[name] = moment if before is None else (before[0] + moment[0], before[1] + moment[1])


PART = Activation()
