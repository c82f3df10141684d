"""Uniform: every parameter deserves the same; the null that spreads ranks evenly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from autopeft.extension import Batch, Task
from autopeft.records import Site


@dataclass(frozen=True)
class Uniform:
    """The same value everywhere."""

    name: str = "uniform"
    summary: str = "the same everywhere (null)"
    needs_gradients: bool = False

    def score(
        self, model: nn.Module, batches: Sequence[Batch], sites: Sequence[Site], *, task: Task, seed: int
    ) -> dict[str, float]:
        """Site name -> 1.0."""
        return {site.name: 1.0 for site in sites}


PART = Uniform()
