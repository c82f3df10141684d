"""DeLoRA: a low-rank update whose strength is parted from its direction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from peft import DeloraConfig, PeftConfig

from autopeft.methods._plain import no_options, no_scale, no_servers
from autopeft.methods._sources import COMPARISON
from autopeft.methods._targets import by_pattern, only_plain_linear, sites_pattern
from autopeft.records import Adapter, OptionValue, Site

# Per rank: 15 at rank 32, as in peft's method comparison. At one strength for all ranks a rank of 2
# would move the weight by sixteen times as much as one of 32, whatever the learning rate.
_STRENGTH = 15 / 32


@dataclass(frozen=True)
class DeLora:
    """DeLoRA (Bini et al. 2025, arXiv:2503.18225): normalised directions and one trained strength.

    The strength starts in proportion to the rank. The first step has it all: directions are
    normalised, so that the learning rate cannot soften it.
    """

    name: str = "delora"
    label: str = "DeLoRA"
    short_label: str = "DeLoRA"
    summary: str = "low-rank update of normalised directions and one trained strength"
    formula: str = "r (n + m) + 1"
    ranked: bool = True
    shared: bool = False
    identity_at_start: bool = True
    merges: bool = True
    learning_rate_range: tuple[float, float] = (5e-4, 2e-2)
    learning_rate_source: str = (
        "1e-3 in peft's method comparison with the same strength; MiniLM-L6, 44 steps: good from 1e-4 "
        "to 3e-2, best of five at 7.2e-3 (reports/LOG.md, 2026-11-25)"
    )
    step_time: float = 1.12
    step_time_source: str = COMPARISON
    choices: Mapping[str, tuple[OptionValue, ...]] = field(default_factory=dict)
    servers = no_servers
    options = no_options
    scale = no_scale

    def refusal(self, site: Site) -> str | None:
        """`nn.Linear` with plain weights only: its tuner knows no Conv1D and no packed ones."""
        return only_plain_linear(site, "DeLoRA")

    def cost(self, site: Site, rank: int, options: Mapping[str, OptionValue]) -> int:
        """Rank times (in + out), and the strength."""
        return rank * (site.in_features + site.out_features) + 1 if rank else 0

    def ranks(self, site: Site, options: Mapping[str, OptionValue]) -> Sequence[int]:
        """Up to the smaller side."""
        return range(1, min(site.in_features, site.out_features) + 1)

    def configs(self, adapters: Sequence[Adapter]) -> tuple[PeftConfig, ...]:
        """One config."""
        rank, ranks = by_pattern({adapter.site: adapter.rank for adapter in adapters})
        targets = sites_pattern(adapter.site for adapter in adapters)
        return (
            DeloraConfig(
                r=rank,
                delora_lambda=_STRENGTH * rank,
                target_modules=targets,
                rank_pattern=ranks,
                lambda_pattern={pattern: _STRENGTH * own for pattern, own in ranks.items()},
            ),
        )


PART = DeLora()
