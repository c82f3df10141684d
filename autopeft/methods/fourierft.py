"""FourierFT: a few frequencies of the update's spectrum are trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from peft import FourierFTConfig, PeftConfig

from autopeft.methods._plain import no_options, no_scale, no_servers
from autopeft.methods._sources import COMPARISON
from autopeft.methods._targets import by_inner_pattern, only_maps, sites_pattern
from autopeft.records import Adapter, OptionValue, Site

_SCALING = 150.0  # peft's default, the paper's for RoBERTa


@dataclass(frozen=True)
class FourierFT:
    """FourierFT (Gao et al. 2024, arXiv:2405.03003); the rank is the number of frequencies.

    Where we differ from `peft`'s default: the spectrum starts at zero, so that training starts at the base
    model (at random, untrained logits move by 0.5 on toys).
    """

    name: str = "fourierft"
    label: str = "FourierFT"
    short_label: str = "FourierFT"
    summary: str = "r frequencies of the update's spectrum, at random places"
    formula: str = "r"
    ranked: bool = True
    shared: bool = False
    identity_at_start: bool = True
    merges: bool = True
    learning_rate_range: tuple[float, float] = (3e-2, 1.0)
    learning_rate_source: str = (
        "the paper's 5e-2 to 1e-1 on GLUE with RoBERTa; MiniLM-L6, 44 steps, 50 frequencies: best of five at "
        "the largest, 0.6 (reports/LOG.md, 2026-11-25); 1e-4 trains nothing in peft's method comparison"
    )
    step_time: float = 1.80
    step_time_source: str = COMPARISON
    choices: Mapping[str, tuple[OptionValue, ...]] = field(default_factory=dict)
    servers = no_servers
    options = no_options
    scale = no_scale

    def refusal(self, site: Site) -> str | None:
        """Linear maps only, in either storage order."""
        return only_maps(site, "FourierFT")

    def cost(self, site: Site, rank: int, options: Mapping[str, OptionValue]) -> int:
        """One number per frequency."""
        return rank

    def ranks(self, site: Site, options: Mapping[str, OptionValue]) -> Sequence[int]:
        """Up to 64 steps of 50 frequencies (fewer in a small map); the paper takes 1,000."""
        step = max(1, min(50, site.in_features * site.out_features // 64))
        return range(step, 64 * step + 1, step)

    def configs(self, adapters: Sequence[Adapter]) -> tuple[PeftConfig, ...]:
        """One config."""
        frequencies = {adapter.site: adapter.rank for adapter in adapters}
        n_frequency, others = by_inner_pattern(frequencies)
        return (
            FourierFTConfig(
                n_frequency=n_frequency,
                n_frequency_pattern=others,
                target_modules=sites_pattern(frequencies),
                init_weights=True,
                scaling=_SCALING,
            ),
        )


PART = FourierFT()
