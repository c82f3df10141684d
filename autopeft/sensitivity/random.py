"""Random: a score that knows nothing; the null that any score must beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autopeft.extension import Reducer
from autopeft.records import Site
from autopeft.sensitivity._sums import Given


@dataclass(frozen=True)
class Random:
    """Log-normal noise, as uneven as measured scores are (sigma 1, chosen by hand)."""

    name: str = "random"
    summary: str = "noise (null)"
    unit: str = "1"
    labels: str = "none"

    def reducer(self, sites: Sequence[Site], *, seed: int) -> Reducer:
        """Site name -> a draw > 0; the same for a seed."""
        draws = np.random.default_rng(seed).lognormal(sigma=1.0, size=len(sites))
        return Given({site.name: float(draw) for site, draw in zip(sites, draws, strict=True)})


PART = Random()
