"""Where a feed-forward ends: the last map of a layer that belongs to a first one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile

from autopeft.model.layers import layer_name
from autopeft.model.roles import FIRST_ROLES
from autopeft.records import Site

_MAPS = ("linear", "conv1d")


def last_maps(site: Site, sites: Sequence[Site]) -> list[Site]:
    """The maps of role `down` in the layer of a site, the nearest by name where there are several.

    Example:
        >>> map_of = lambda name, role: Site(name=name, layer=0, role=role, kind="linear", in_features=8,
        ...     out_features=8, has_bias=False)
        >>> lasts = [map_of(f"h.0.{part}.fc2", "down") for part in ("mlp", "router")]
        >>> [site.name for site in last_maps(map_of("h.0.mlp.fc1", "up"), lasts)]
        ['h.0.mlp.fc2']
    """
    layer = _layer(site)
    in_layer = [other for other in sites if _ends_layer(other) and _layer(other) == layer]
    return _nearest(site, in_layer)


def with_last_maps(sites: Sequence[Site]) -> list[Site]:
    """The sites, the first maps of a feed-forward noted that have no last map of their own width."""
    by_layer: dict[str, list[Site]] = defaultdict(list)
    for site in sites:
        if _ends_layer(site):
            by_layer[_layer(site)].append(site)

    def is_whole(site: Site) -> bool:
        nearest = _nearest(site, by_layer[_layer(site)])
        return len(nearest) == 1 and nearest[0].out_features == site.in_features

    return [
        replace(site, has_last_map=is_whole(site))
        if site.role in FIRST_ROLES and site.kind in _MAPS
        else site
        for site in sites
    ]


def _layer(site: Site) -> str:
    return layer_name(site.name) or ""


def _ends_layer(site: Site) -> bool:
    return site.role == "down" and site.kind in _MAPS


def _nearest(site: Site, others: Sequence[Site]) -> list[Site]:
    """Those whose names share the most leading parts with the site's."""
    n_shared = [_n_shared_parts(site.name, other.name) for other in others]
    return [other for other, n in zip(others, n_shared, strict=True) if n == max(n_shared)]


def _n_shared_parts(name: str, other: str) -> int:
    """How many leading parts two dotted names share."""
    pairs = zip(name.split("."), other.split("."), strict=False)
    return len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))
