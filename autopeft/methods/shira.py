"""SHiRA: a few weights of the frozen map are trained, chosen at random."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from peft import PeftConfig, ShiraConfig

from autopeft.methods._plain import no_options, no_scale, no_servers
from autopeft.methods._sources import COMPARISON
from autopeft.methods._targets import doublings, one_config_per_rank, only_plain_linear
from autopeft.records import Adapter, OptionValue, Site

_SEED = 0  # of the places of the trained weights


@dataclass(frozen=True)
class Shira:
    """SHiRA (Bhardwaj et al. 2024, arXiv:2406.13175) with a random mask; a rank stands for LoRA's count."""

    name: str = "shira"
    label: str = "SHiRA"
    short_label: str = "SHiRA"
    summary: str = "r (n + m) weights of the map itself, at random places"
    formula: str = "r (n + m)"
    ranked: bool = True
    shared: bool = False
    identity_at_start: bool = True
    merges: bool = True
    learning_rate_range: tuple[float, float] = (2e-4, 5e-3)
    learning_rate_source: str = (
        "3e-4 in peft's method comparison (0.510, with LoRA 0.478), raised for short runs"
    )
    step_time: float = 1.06
    step_time_source: str = COMPARISON
    choices: Mapping[str, tuple[OptionValue, ...]] = field(default_factory=dict)
    servers = no_servers
    options = no_options
    scale = no_scale

    def refusal(self, site: Site) -> str | None:
        """`nn.Linear` with plain weights only: its tuner knows no Conv1D and no packed ones."""
        return only_plain_linear(site, "SHiRA")

    def cost(self, site: Site, rank: int, options: Mapping[str, OptionValue]) -> int:
        """As many weights as LoRA of that rank has."""
        return rank * (site.in_features + site.out_features)

    def ranks(self, site: Site, options: Mapping[str, OptionValue]) -> Sequence[int]:
        """Powers of two, as a config holds one rank, up to all weights of the map."""
        inputs, outputs = site.in_features, site.out_features
        return doublings(max(1, inputs * outputs // (inputs + outputs)))

    def configs(self, adapters: Sequence[Adapter]) -> tuple[PeftConfig, ...]:
        """One config for each rank in use; the places are the same in every run."""
        return one_config_per_rank(
            adapters, lambda rank, sites: ShiraConfig(r=rank, random_seed=_SEED, target_modules=sites)
        )


PART = Shira()
