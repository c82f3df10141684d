"""Random: a score that knows nothing; the null that any score must beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from autopeft.extension import Batch, Task
from autopeft.records import Site


@dataclass(frozen=True)
class Random:
    """Log-normal noise, as uneven as measured scores are (sigma 1, chosen by hand)."""

    name: str = "random"
    summary: str = "noise (null)"
    needs_gradients: bool = False

    def score(
        self, model: nn.Module, batches: Sequence[Batch], sites: Sequence[Site], *, task: Task, seed: int
    ) -> dict[str, float]:
        """Site name -> a draw > 0; the same for a seed."""
        draws = np.random.default_rng(seed).lognormal(sigma=1.0, size=len(sites))
        return {site.name: float(draw) for site, draw in zip(sites, draws, strict=True)}


PART = Random()
