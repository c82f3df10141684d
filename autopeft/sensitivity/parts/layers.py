"""Which sites a layer of the stack holds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from autopeft.records import Site, layer_name


def sites_by_layer(sites: Sequence[Site]) -> dict[str, tuple[Site, ...]]:
    """Name of a layer's module -> its sites in their order; sites outside the stack are left out."""
    by_layer: dict[str, list[Site]] = defaultdict(list)
    for site in sites:
        layer = layer_name(site.name)
        if layer is not None:
            by_layer[layer].append(site)
    return {layer: tuple(of_layer) for layer, of_layer in by_layer.items()}
