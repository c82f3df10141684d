"""Where the terms of parallel bottleneck adapters go: the last map of each one's feed-forward sub-layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from autopeft.errors import SiteError
from autopeft.model import last_maps, list_sites
from autopeft.records import FIRST_ROLES, Site


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
    cast(Any, tree).config = getattr(model, "config", None)  # its model type tells some roles
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
    """The last map of a site's feed-forward, where there is one alone."""
    if site.role not in FIRST_ROLES or site.layer is None:
        raise SiteError(
            f"A parallel bottleneck adapter was put at {site.name}, a map of role {site.role!r}; it takes "
            "the first map of a layer's feed-forward: choose one of role up or gate_up, or name its last "
            "map in outputs."
        )
    nearest = [other.name for other in last_maps(site, sites)]
    if len(nearest) != 1:
        held = f"has the last maps {', '.join(sorted(nearest))}" if nearest else "has no last map (role down)"
        raise SiteError(
            f"A parallel bottleneck adapter was put at {site.name}, whose layer {held}; it needs exactly "
            "one to add to: use a serial adapter there, or name the map in outputs."
        )
    return nearest[0]


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
