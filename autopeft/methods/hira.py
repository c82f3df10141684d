"""HiRA: a low-rank factor on the frozen weight itself, so that the update has full rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from peft import HiraConfig, PeftConfig

from autopeft.methods._plain import no_options, no_scale, no_servers
from autopeft.methods._sources import COMPARISON
from autopeft.methods._targets import doublings, one_config_per_rank, only_maps
from autopeft.records import Adapter, OptionValue, Site


@dataclass(frozen=True)
class Hira:
    """HiRA (Huang et al. 2025, ICLR): the update is W * (B A), elementwise."""

    name: str = "hira"
    label: str = "HiRA"
    short_label: str = "HiRA"
    summary: str = "elementwise product of the frozen weight and a low-rank matrix"
    formula: str = "r (n + m)"
    ranked: bool = True
    shared: bool = False
    identity_at_start: bool = True
    merges: bool = True
    learning_rate_range: tuple[float, float] = (5e-3, 8e-2)
    learning_rate_source: str = (
        "4.5e-3 in peft's method comparison (0.513, with LoRA 0.478); MiniLM-L6, 44 steps: best of five "
        "at 4.9e-2, chance at 0.18 (reports/LOG.md, 2026-11-25)"
    )
    step_time: float = 1.37
    step_time_source: str = COMPARISON
    choices: Mapping[str, tuple[OptionValue, ...]] = field(default_factory=dict)
    servers = no_servers
    options = no_options
    scale = no_scale

    def refusal(self, site: Site) -> str | None:
        """Linear maps only, in either storage order."""
        return only_maps(site, "HiRA")

    def cost(self, site: Site, rank: int, options: Mapping[str, OptionValue]) -> int:
        """Rank times (in + out)."""
        return rank * (site.in_features + site.out_features)

    def ranks(self, site: Site, options: Mapping[str, OptionValue]) -> Sequence[int]:
        """Powers of two up to the smaller side: one config holds one rank."""
        return doublings(min(site.in_features, site.out_features))

    def configs(self, adapters: Sequence[Adapter]) -> tuple[PeftConfig, ...]:
        """One config for each rank in use: `peft` 0.21.2 reads a `rank_pattern` here and does not heed it."""
        return one_config_per_rank(adapters, lambda rank, sites: HiraConfig(r=rank, target_modules=sites))


PART = Hira()
