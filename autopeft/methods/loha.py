"""LoHa: the elementwise product of two low-rank updates beside a frozen linear map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from peft import LoHaConfig, PeftConfig

from autopeft.methods._plain import double_scale, no_options, no_servers
from autopeft.methods._sources import COMPARISON
from autopeft.methods._targets import lycoris_config, only_plain_linear
from autopeft.records import Adapter, OptionValue, Site


@dataclass(frozen=True)
class LoHa:
    """LoHa (Hyeon-Woo et al. 2021, FedPara, arXiv:2108.06098; LyCORIS, arXiv:2309.14859)."""

    name: str = "loha"
    label: str = "LoHa"
    short_label: str = "LoHa"
    summary: str = "elementwise product of two low-rank updates: rank up to r squared"
    formula: str = "2 r (n + m)"
    ranked: bool = True
    shared: bool = False
    identity_at_start: bool = True
    merges: bool = True
    learning_rate_range: tuple[float, float] = (1.5e-3, 3e-2)
    learning_rate_source: str = (
        "MiniLM-L6, 44 steps: best of five at 1.4e-2, chance at 6e-2 (reports/LOG.md, 2026-11-25); "
        "1e-4 is too low in peft's method comparison (loss 0.905 at step 500, LoRA 0.716)"
    )
    step_time: float = 1.48
    step_time_source: str = COMPARISON
    choices: Mapping[str, tuple[OptionValue, ...]] = field(default_factory=dict)
    servers = no_servers
    options = no_options
    scale = double_scale

    def refusal(self, site: Site) -> str | None:
        """`nn.Linear` with plain weights only: its tuner knows no Conv1D and no packed ones."""
        return only_plain_linear(site, "LoHa")

    def cost(self, site: Site, rank: int, options: Mapping[str, OptionValue]) -> int:
        """Two pairs of factors."""
        return 2 * rank * (site.in_features + site.out_features)

    def ranks(self, site: Site, options: Mapping[str, OptionValue]) -> Sequence[int]:
        """Up to half of the smaller side, where a rank of r squared has long been full."""
        return range(1, max(1, min(site.in_features, site.out_features) // 2) + 1)

    def configs(self, adapters: Sequence[Adapter]) -> tuple[PeftConfig, ...]:
        """One config."""
        return (lycoris_config(LoHaConfig, adapters),)


PART = LoHa()
