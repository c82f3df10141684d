"""Parameters: large sites first; the null that tells a score from mere size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autopeft.extension import Reducer
from autopeft.records import Site
from autopeft.sensitivity._sums import Given


@dataclass(frozen=True)
class Parameters:
    """How many weights a site has: of a norm weight and bias, of a map the weight alone."""

    name: str = "parameters"
    summary: str = "the number of weights (null)"
    unit: str = "weights"
    labels: str = "none"

    def reducer(self, sites: Sequence[Site], *, seed: int) -> Reducer:
        """Site name -> number of weights."""
        return Given({site.name: float(_n_weights(site)) for site in sites})


def _n_weights(site: Site) -> int:
    if site.kind == "norm":
        return site.out_features * (2 if site.has_bias else 1)
    return site.in_features * site.out_features * site.copies


PART = Parameters()
