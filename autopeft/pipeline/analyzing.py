"""`analyze`: the sensitivity of every site, without a search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autopeft.pipeline.prepare import prepare, sensitivity
from autopeft.records import RunSpec, Site, SiteScores


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """Scores of the sites of a base model on a dataset."""

    base_model: str
    data: str
    sites: tuple[Site, ...]
    scores: tuple[SiteScores, ...]


def analyze(spec: RunSpec, *, scores: Sequence[str], max_examples: int | None = None) -> Analysis:
    """Score every site on a seeded sample of the train split.

    Raises:
        AutopeftError: As for a search, where data, model or a score's name cannot be used.
    """
    prepared = prepare(spec)
    return Analysis(
        base_model=prepared.base.name,
        data=prepared.data.name,
        sites=prepared.base.sites,
        scores=sensitivity(prepared, scores, max_examples=max_examples),
    )
