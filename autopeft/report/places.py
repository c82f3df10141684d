"""Which modules a plan adapts, in words."""

from __future__ import annotations

from collections.abc import Sequence

from autopeft.records import Plan, Site

_MOST_ROLES, _MOST_LAYERS = 7, 4  # that are named one by one; chosen by hand


def places(plan: Plan, sites: Sequence[Site]) -> str:
    """The number, kinds and layers of the modules that a plan adapts: `12 modules: q and v in all 6 layers`.

    Layers are counted from 0, as in the names of modules. `sites` are those of the base model. Empty for a
    plan without adapters, and for modules outside the layers alone.
    """
    adapted = {adapter.site for adapter in plan.adapters}
    chosen = [site for site in sites if site.name in adapted and site.layer is not None]
    layers = sorted({site.layer for site in chosen if site.layer is not None})
    if not layers:
        return ""
    roles = list(dict.fromkeys(site.role for site in chosen))
    possible = sum(site.layer in layers and site.role in roles for site in sites)
    words = f"{len(adapted)} modules" if len(adapted) > 1 else "1 module"
    kinds = listed(roles) if len(roles) <= _MOST_ROLES else f"{len(roles)} kinds"
    some = "" if possible == len(chosen) else "some of "
    outside = _outside([site for site in sites if site.name in adapted and site.layer is None])
    n_layers = len({site.layer for site in sites if site.layer is not None})
    return f"{words}: {some}{kinds} {_where(layers, n_layers)}{outside}"


def _outside(sites: Sequence[Site]) -> str:
    """Modules outside the layers in words: ` and 1 module outside the layers (dense)`; empty for none."""
    if not sites:
        return ""
    roles = list(dict.fromkeys(site.role for site in sites))
    kinds = listed(roles) if len(roles) <= _MOST_ROLES else f"{len(roles)} kinds"
    return f" and {len(sites)} module{'s' * (len(sites) > 1)} outside the layers ({kinds})"


def _where(layers: Sequence[int], n_layers: int) -> str:
    """Layers in words, of `n_layers` in all.

    Example:
        >>> _where([0, 1, 2, 3], 4), _where([2, 3], 4), _where([0], 4), _where([0, 2], 4)
        ('in all 4 layers', 'in layers 2 to 3 of 4', 'in layer 0 of 4', 'in layers 0 and 2 of 4')
    """
    first, last = layers[0], layers[-1]
    if len(layers) == n_layers:
        return {1: "in its layer", 2: "in both layers"}.get(n_layers, f"in all {n_layers} layers")
    if len(layers) == 1:
        return f"in layer {first} of {n_layers}"
    if last - first + 1 == len(layers):
        return f"in layers {first} to {last} of {n_layers}"
    if len(layers) <= _MOST_LAYERS:
        return f"in layers {listed(list(map(str, layers)))} of {n_layers}"
    return f"in {len(layers)} of {n_layers} layers"


def listed(words: Sequence[str]) -> str:
    """Words with commas and a last `and`.

    Example:
        >>> listed(["q"]), listed(["q", "v"]), listed(["q", "k", "v"])
        ('q', 'q and v', 'q, k and v')
    """
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last
