"""RoAd: the outputs of a frozen map are rotated and stretched in pairs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from peft import PeftConfig, RoadConfig

from autopeft.methods._plain import no_rank, no_scale, no_servers
from autopeft.methods._sources import COMPARISON
from autopeft.methods._targets import only_linear, sites_pattern
from autopeft.records import Adapter, OptionValue, Site

_PER_OUTPUT = {"road_1": 1, "road_2": 2, "road_4": 4}
_LARGEST_GROUP = 64  # peft's default


@dataclass(frozen=True)
class Road:
    """RoAd (Liao et al. 2024, arXiv:2409.00119); option `variant` is road_1, road_2 or road_4."""

    name: str = "road"
    label: str = "RoAd"
    short_label: str = "RoAd"
    summary: str = "rotation and stretching of pairs of outputs; variants of 1, 2, 4 numbers per output"
    formula: str = "m, 2 m or 4 m"
    ranked: bool = False
    shared: bool = False
    identity_at_start: bool = True
    merges: bool = True
    learning_rate_range: tuple[float, float] = (2e-3, 5e-2)
    learning_rate_source: str = (
        "IA3's range, lowered; 1e-3 is low in peft's method comparison "
        "(0.385, with IA3 0.398 there and 0.455 at 5e-3)"
    )
    step_time: float = 1.04
    step_time_source: str = COMPARISON
    choices: Mapping[str, tuple[OptionValue, ...]] = field(
        default_factory=lambda: {"variant": ("road_1", "road_2", "road_4")}
    )
    servers = no_servers
    scale = no_scale
    ranks = no_rank

    def refusal(self, site: Site) -> str | None:
        """Linear maps with an even number of outputs."""
        if site.kind == "linear" and site.out_features % 2:
            return f"RoAd rotates pairs of outputs, and there are {site.out_features}"
        return only_linear(site, "RoAd")

    def options(self, site: Site, **choices: OptionValue) -> Mapping[str, OptionValue]:
        """`variant`, and `group_size`: the outputs that are paired within, at most 64 as in `peft`."""
        return {"group_size": _group_size(site.out_features), "variant": choices.get("variant", "road_1")}

    def cost(self, site: Site, rank: int, options: Mapping[str, OptionValue]) -> int:
        """Angle and stretch of each pair, once, twice or four times."""
        return site.out_features * _PER_OUTPUT[str(options["variant"])]

    def configs(self, adapters: Sequence[Adapter]) -> tuple[PeftConfig, ...]:
        """One config for each variant and group size in use."""
        sites_of: dict[tuple[str, int], list[str]] = defaultdict(list)
        for adapter in adapters:
            own = dict(adapter.options)
            sites_of[str(own["variant"]), int(own["group_size"])].append(adapter.site)
        return tuple(
            RoadConfig(variant=variant, group_size=size, target_modules=sites_pattern(sites))
            for (variant, size), sites in sorted(sites_of.items())
        )


def _group_size(n_outputs: int) -> int:
    """The largest even number up to 64 that divides the outputs."""
    return max(size for size in range(2, _LARGEST_GROUP + 1, 2) if n_outputs % size == 0)


PART = Road()
