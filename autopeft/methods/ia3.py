"""IA3: a trained factor on each output (or, in the feed-forward's last map, each input) of a linear map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from peft import IA3Config, PeftConfig

from autopeft.methods._plain import no_rank, no_scale, no_servers
from autopeft.methods._sources import COMPARISON
from autopeft.methods._targets import only_maps, sites_pattern
from autopeft.records import Adapter, OptionValue, Site


@dataclass(frozen=True)
class IA3:
    """IA3 (Liu et al. 2022, arXiv:2205.05638).

    Where we differ: every linear map may take it, not k, v and down alone.
    """

    name: str = "ia3"
    label: str = "IA³"
    short_label: str = "IA³"
    summary: str = "one trained factor per output of a linear map (per input at `down`)"
    formula: str = "m (at `down` n)"
    ranked: bool = False
    shared: bool = False
    identity_at_start: bool = True
    merges: bool = True
    learning_rate_range: tuple[float, float] = (5e-3, 1e-1)
    learning_rate_source: str = "pilot on MiniLM-L6 / TREC-6: 95.0-95.3 % at 2.5e-2 to 5e-2, 90.6 % at 4e-3"
    step_time: float = 1.05
    step_time_source: str = COMPARISON
    choices: Mapping[str, tuple[OptionValue, ...]] = field(default_factory=dict)
    servers = no_servers
    scale = no_scale
    ranks = no_rank

    def refusal(self, site: Site) -> str | None:
        """Linear maps only, in either storage order."""
        return only_maps(site, "IA3")

    def options(self, site: Site, **choices: OptionValue) -> Mapping[str, OptionValue]:
        """`feedforward` at the role `down`: the factor then sits on the inputs, as in the paper."""
        return {"feedforward": True} if site.role == "down" else {}

    def cost(self, site: Site, rank: int, options: Mapping[str, OptionValue]) -> int:
        """One factor per output, or per input where `feedforward`."""
        return site.in_features if options.get("feedforward") else site.out_features

    def configs(self, adapters: Sequence[Adapter]) -> tuple[PeftConfig, ...]:
        """One config; an empty list means that no site is a feed-forward one."""
        inputs = [adapter.site for adapter in adapters if dict(adapter.options).get("feedforward")]
        return (
            IA3Config(
                target_modules=sites_pattern(adapter.site for adapter in adapters),
                feedforward_modules=sites_pattern(inputs) if inputs else [],
            ),
        )


PART = IA3()
