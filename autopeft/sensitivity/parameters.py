"""Parameters: large sites first; tells a score of the data from mere size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from autopeft.records import Site
from autopeft.sensitivity.parts.score import SiteScore


@dataclass
class _Counts:
    """Values of a score that looks at no example."""

    value_by_site: dict[str, float]

    def update(self, site: Site, module: nn.Module, inputs: Tensor, gradient: Tensor) -> None:
        """Do nothing: the values do not depend on batches."""

    def add(self, other: Any) -> None:
        """Do nothing: another reducer has the same values."""

    def values(self, n_examples: int) -> dict[str, float]:
        """Site name -> value."""
        return self.value_by_site


def _counts(sites: Sequence[Site]) -> _Counts:
    counts = {}
    for site in sites:
        n_weights = site.in_features * site.out_features * site.copies  # without the bias
        if site.kind == "norm":
            n_weights = site.out_features * (2 if site.has_bias else 1)
        counts[site.name] = float(n_weights)
    return _Counts(counts)


PART = SiteScore(
    name="parameters",
    summary="the number of weights",
    unit="weights",
    reads_examples=False,
    reducer=_counts,
)
