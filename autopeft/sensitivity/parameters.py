"""Parameters: large sites first; the null score that tells a score from mere size."""

from __future__ import annotations

from autopeft.records import Site
from autopeft.sensitivity.parts.score import FixedValues, SiteScore


def _n_weights(site: Site) -> int:
    """Of a norm the weight and bias, of a map the weight alone."""
    if site.kind == "norm":
        return site.out_features * (2 if site.has_bias else 1)
    return site.in_features * site.out_features * site.copies


PART = SiteScore(
    name="parameters",
    summary="the number of weights (null)",
    unit="weights",
    needed_pass="none",
    reducer=lambda sites, seed: FixedValues({site.name: float(_n_weights(site)) for site in sites}),
)
