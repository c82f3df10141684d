"""Where a feed-forward ends: the last map of a layer that belongs to a first one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from autopeft.records import FIRST_ROLES, Site, layer_name

_MAPS = ("linear", "conv1d")


def last_maps(site: Site, sites: Iterable[Site]) -> list[Site]:
    """The maps of role `down` in the layer of a site, the nearest by name where there are several.

    Example:
        >>> map_of = lambda name, role: Site(name=name, layer=0, role=role, kind="linear", in_features=8,
        ...     out_features=8, has_bias=False)
        >>> lasts = [map_of(f"h.0.{part}.fc2", "down") for part in ("mlp", "router")]
        >>> [site.name for site in last_maps(map_of("h.0.mlp.fc1", "up"), lasts)]
        ['h.0.mlp.fc2']
    """
    return _nearest(site, _by_module(sites))


def with_last_maps(sites: Sequence[Site]) -> list[Site]:
    """The sites, the first maps of a feed-forward noted that have no last map of their own width."""
    by_module = _by_module(sites)

    def is_whole(site: Site) -> bool:
        nearest = _nearest(site, by_module)
        return len(nearest) == 1 and nearest[0].out_features == site.in_features

    return [
        replace(site, has_last_map=is_whole(site))
        if site.role in FIRST_ROLES and site.kind in _MAPS
        else site
        for site in sites
    ]


def _by_module(sites: Iterable[Site]) -> dict[str, list[Site]]:
    """The maps of role `down` inside of each module, from their layer inwards; under "" those of no layer."""
    by_module: defaultdict[str, list[Site]] = defaultdict(list)
    for site in sites:
        if site.role == "down" and site.kind in _MAPS:
            for name in _modules_around(site):
                by_module[name].append(site)
    return dict(by_module)


def _nearest(site: Site, by_module: Mapping[str, list[Site]]) -> list[Site]:
    """Those whose names share the most leading parts with the site's."""
    return next((by_module[name] for name in _modules_around(site) if name in by_module), [])


def _modules_around(site: Site) -> Iterator[str]:
    """The names of the modules that hold a site, itself included, from the innermost to its layer."""
    layer, name = layer_name(site.name) or "", site.name
    while len(name) > len(layer):
        yield name
        name = name.rpartition(".")[0]
    yield layer
