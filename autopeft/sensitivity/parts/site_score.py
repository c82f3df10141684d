"""The record of an importance score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from autopeft.extension import Reducer
from autopeft.records import Site


@dataclass(frozen=True, kw_only=True)
class SiteScore:
    """A score as `extension.Score` has it; `make_reducer` gets the sites and the seed."""

    name: str
    summary: str
    unit: str
    labels: str
    make_reducer: Callable[[Sequence[Site], int], Reducer]

    def reducer(self, sites: Sequence[Site], *, seed: int) -> Reducer:
        """A fresh reducer; the same seed draws the same random matrices."""
        return self.make_reducer(sites, seed)
