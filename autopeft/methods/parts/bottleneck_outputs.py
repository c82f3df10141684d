"""Where the terms of parallel bottleneck adapters go: the last map of each one's feed-forward sub-layer."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from autopeft.errors import SiteError
from autopeft.model import list_sites
from autopeft.records import Site

FIRST_ROLES = ("up", "gate_up")  # of the maps that begin a feed-forward sub-layer
_LAYER = re.compile(r"^.*?\.\d+\.")  # a module's name as far as its layer, by the first number


def outputs_of(
    model: nn.Module, *, is_target: Callable[[str], bool], known: Mapping[str, str]
) -> dict[str, str]:
    """First map -> last map of its feed-forward sub-layer, by name, for every target.

    The model may have tuners on it. `known` holds pairs that need no search; their widths are checked too.

    Raises:
        SiteError: A target has no last map in its layer, several, or one of another width.
    """
    sites = {site.name: site for site in list_sites(_without_tuners(model))}
    outputs = {}
    for name, site in sites.items():
        if is_target(name):
            outputs[name] = known[name] if name in known else _last_map(site, tuple(sites.values()))
            _check_width(site, outputs[name], sites)
    return outputs


def _without_tuners(model: nn.Module) -> nn.Module:
    """The leaf modules of a model, without the tuners around them, under their names in the base model."""
    tree = nn.Module()
    inside: tuple[str, ...] = ()
    for name, module in model.named_modules():
        if name.startswith(inside):
            continue
        if isinstance(module, BaseTunerLayer):
            inside = (*inside, f"{name}.")
            module = module.get_base_layer()
        if name and not any(True for _ in module.children()):
            *path, last = name.split(".")
            parent = tree
            for part in path:
                if part not in parent._modules:
                    parent.add_module(part, nn.Module())
                parent = parent.get_submodule(part)
            parent.add_module(last, module)
    return tree


def _last_map(site: Site, sites: Sequence[Site]) -> str:
    """The map of role `down` in the layer of a site, the nearest by name where there are several."""
    layer = _LAYER.match(site.name)
    if site.role not in FIRST_ROLES or layer is None:
        raise SiteError(
            f"A parallel bottleneck adapter was put at {site.name}, a map of role {site.role!r}; it takes "
            "the first map of a layer's feed-forward: choose one of role up or gate_up, or name its last "
            "map in outputs."
        )
    last_maps = [other.name for other in sites if other.role == "down" and other.name.startswith(layer[0])]
    n_shared = {name: _n_shared_parts(site.name, name) for name in last_maps}
    nearest = [name for name, n in n_shared.items() if n == max(n_shared.values())]
    if len(nearest) != 1:
        held = f"has the last maps {', '.join(sorted(nearest))}" if nearest else "has no last map (role down)"
        raise SiteError(
            f"A parallel bottleneck adapter was put at {site.name}, whose layer {held}; it needs exactly "
            "one to add to: use a serial adapter there, or name the map in outputs."
        )
    return nearest[0]


def _n_shared_parts(name: str, other: str) -> int:
    """How many leading parts two dotted names share."""
    pairs = zip(name.split("."), other.split("."), strict=False)
    return len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))


def _check_width(site: Site, last: str, sites: Mapping[str, Site]) -> None:
    """Refuse a sub-layer with fewer or more outputs than inputs: the term has the width of its input."""
    if last not in sites:
        raise SiteError(
            f"The term of {site.name} is to go to {last}, and the model has no linear map of that name; "
            "correct outputs in the adapter's config, or leave it out."
        )
    if sites[last].out_features != site.in_features:
        raise SiteError(
            f"The term of {site.name} has its {site.in_features} inputs as width, but {last} gives "
            f"{sites[last].out_features} numbers; use a serial adapter there."
        )
