"""Ranks that several methods share."""

from __future__ import annotations

from autopeft.extension import Options
from autopeft.records import Site


def up_to_smaller_side(site: Site, options: Options) -> range:
    """1 to min(in, out): beyond it a rank adds no freedom."""
    return range(1, min(site.in_features, site.out_features) + 1)


def doublings(limit: int) -> tuple[int, ...]:
    """1, 2, 4, … up to a limit: few ranks, where each rank in use needs a config of its own.

    Example:
        >>> doublings(12)
        (1, 2, 4, 8)
    """
    return tuple(2**power for power in range(max(1, limit).bit_length()))
