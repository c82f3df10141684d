"""Uniform: the same value everywhere; the null score that spreads ranks evenly."""

from autopeft.sensitivity.parts.score import FixedValues, SiteScore

PART = SiteScore(
    name="uniform",
    summary="the same everywhere (null)",
    unit="1",
    needed_pass="none",
    reducer=lambda sites, seed: FixedValues({site.name: 1.0 for site in sites}),
)
