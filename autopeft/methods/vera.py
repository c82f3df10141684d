"""VeRA: two trained vectors around random matrices that all sites share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from peft import PeftConfig, VeraConfig

from autopeft.errors import SpecError
from autopeft.methods._plain import no_scale, no_servers
from autopeft.methods._sources import COMPARISON
from autopeft.methods._targets import only_maps, sites_pattern
from autopeft.records import Adapter, OptionValue, Site


@dataclass(frozen=True)
class Vera:
    """VeRA (Kopiczko et al. 2023, arXiv:2310.11454); option `r` is the rank of the shared matrices."""

    name: str = "vera"
    label: str = "VeRA"
    short_label: str = "VeRA"
    summary: str = "two vectors per map around shared random matrices of rank r"
    formula: str = "r + m"
    ranked: bool = False
    shared: bool = True
    identity_at_start: bool = True
    merges: bool = True
    learning_rate_range: tuple[float, float] = (3e-3, 5e-2)
    learning_rate_source: str = "the paper's 1e-2 to 4e-2 on GLUE with RoBERTa, widened by hand"
    step_time: float = 1.07
    step_time_source: str = COMPARISON
    choices: Mapping[str, tuple[OptionValue, ...]] = field(default_factory=lambda: {"r": (64, 256)})
    servers = no_servers
    scale = no_scale

    def refusal(self, site: Site) -> str | None:
        """Linear maps only, in either storage order."""
        return only_maps(site, "VeRA")

    def options(self, site: Site, **choices: OptionValue) -> Mapping[str, OptionValue]:
        """`r`, 64 unless chosen."""
        return {"r": choices.get("r", 64)}

    def cost(self, site: Site, rank: int, options: Mapping[str, OptionValue]) -> int:
        """One number per row of the shared matrices and one per output."""
        return int(options["r"]) + site.out_features

    def ranks(self, site: Site, options: Mapping[str, OptionValue]) -> Sequence[int]:
        """There is none to give: the rank is one for all sites."""
        return (1,)

    def configs(self, adapters: Sequence[Adapter]) -> tuple[PeftConfig, ...]:
        """One config: `peft` keeps one pair of matrices for each name of an adapter."""
        ranks = {int(dict(adapter.options)["r"]) for adapter in adapters}
        if len(ranks) > 1:
            raise SpecError(
                f"VeRA shares one rank r among all sites, the plan has {sorted(ranks)}; choose one."
            )
        return (VeraConfig(r=ranks.pop(), target_modules=sites_pattern(a.site for a in adapters)),)


PART = Vera()
