"""MiSS: one trained matrix whose rows are shared among shards of the inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from peft import MissConfig, PeftConfig

from autopeft.methods._plain import no_options, no_scale, no_servers
from autopeft.methods._sources import COMPARISON
from autopeft.methods._targets import doublings, one_config_per_rank, only_linear
from autopeft.records import Adapter, OptionValue, Site


@dataclass(frozen=True)
class Miss:
    """MiSS (Kang and Yin 2024, arXiv:2409.15371), once called Bone."""

    name: str = "miss"
    label: str = "MiSS"
    short_label: str = "MiSS"
    summary: str = "one matrix of r rows, shared among shards of the inputs"
    formula: str = "r m"
    ranked: bool = True
    shared: bool = False
    identity_at_start: bool = True
    merges: bool = True
    learning_rate_range: tuple[float, float] = (2e-4, 6e-3)
    learning_rate_source: str = (
        "1e-4 to 2e-4 of the paper and of peft's method comparison, raised for short runs"
    )
    step_time: float = 0.95
    step_time_source: str = COMPARISON
    choices: Mapping[str, tuple[OptionValue, ...]] = field(default_factory=dict)
    servers = no_servers
    options = no_options
    scale = no_scale

    def refusal(self, site: Site) -> str | None:
        """`nn.Linear` only: its tuner knows no Conv1D."""
        return only_linear(site, "MiSS")

    def cost(self, site: Site, rank: int, options: Mapping[str, OptionValue]) -> int:
        """Rank times out."""
        return rank * site.out_features

    def ranks(self, site: Site, options: Mapping[str, OptionValue]) -> Sequence[int]:
        """Powers of two up to the inputs: a config holds one rank.

        Not 1, which sees the sum of all inputs: behind a LayerNorm that is next to constant.
        """
        return doublings(site.in_features)[1:] or (1,)

    def configs(self, adapters: Sequence[Adapter]) -> tuple[PeftConfig, ...]:
        """One config for each rank in use."""
        return one_config_per_rank(adapters, lambda rank, sites: MissConfig(r=rank, target_modules=sites))


PART = Miss()
