"""Uniform: every parameter deserves the same; the null that spreads ranks evenly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autopeft.extension import Reducer
from autopeft.records import Site
from autopeft.sensitivity._sums import Given


@dataclass(frozen=True)
class Uniform:
    """The same value everywhere."""

    name: str = "uniform"
    summary: str = "the same everywhere (null)"
    unit: str = "1"
    labels: str = "none"

    def reducer(self, sites: Sequence[Site], *, seed: int) -> Reducer:
        """Site name -> 1.0."""
        return Given({site.name: 1.0 for site in sites})


PART = Uniform()
