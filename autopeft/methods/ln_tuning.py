"""Norm tuning: the weights and biases of normalisation layers are trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from peft import LNTuningConfig, PeftConfig

from autopeft.methods._plain import no_options, no_rank, no_scale, no_servers
from autopeft.methods._sources import COMPARISON
from autopeft.methods._targets import sites_pattern
from autopeft.records import Adapter, OptionValue, Site


@dataclass(frozen=True)
class NormTuning:
    """Norm tuning (Zhao et al. 2023, arXiv:2312.11420), through `peft`'s LN_TUNING."""

    name: str = "ln_tuning"
    label: str = "norm tuning"
    short_label: str = "norm"
    summary: str = "weight and bias of a normalisation layer"
    formula: str = "m, with a bias 2 m"
    ranked: bool = False
    shared: bool = False
    identity_at_start: bool = True
    merges: bool = True
    learning_rate_range: tuple[float, float] = (2e-3, 4e-2)
    learning_rate_source: str = (
        "MiniLM-L6, 44 steps: best of five at 2.2e-2, chance at 9e-2 (reports/LOG.md, 2026-11-25); "
        "1e-4 trains nothing in peft's method comparison"
    )
    step_time: float = 0.97
    step_time_source: str = COMPARISON
    choices: Mapping[str, tuple[OptionValue, ...]] = field(default_factory=dict)
    servers = no_servers
    options = no_options
    scale = no_scale
    ranks = no_rank

    def refusal(self, site: Site) -> str | None:
        """Norms alone: LN_TUNING would copy any other module whole."""
        return None if site.kind == "norm" else "norm tuning takes norms"

    def cost(self, site: Site, rank: int, options: Mapping[str, OptionValue]) -> int:
        """Weight and, where there is one, bias."""
        return site.out_features * (2 if site.has_bias else 1)

    def configs(self, adapters: Sequence[Adapter]) -> tuple[PeftConfig, ...]:
        """One config."""
        return (LNTuningConfig(target_modules=sites_pattern(adapter.site for adapter in adapters)),)


PART = NormTuning()
