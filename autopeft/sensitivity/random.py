"""Random: a score that knows nothing; the null score that any score must beat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autopeft.records import Site
from autopeft.sensitivity.parts.score import FixedValues, SiteScore


def _reducer(sites: Sequence[Site], seed: int) -> FixedValues:
    """Log-normal noise, as uneven as measured scores are (sigma 1, chosen by hand)."""
    noise = np.random.default_rng(seed).lognormal(sigma=1.0, size=len(sites))
    return FixedValues({site.name: float(value) for site, value in zip(sites, noise, strict=True)})


PART = SiteScore(name="random", summary="noise (null)", unit="1", needed_pass="none", reducer=_reducer)
